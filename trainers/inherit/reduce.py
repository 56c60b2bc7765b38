# SPDX-License-Identifier: Apache-2.0
"""Reduces a teacher's matrices for a smaller student: heads, units, directions, experts."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainers.modules.attention import SelfAttention
from trainers.modules.device import CPU

K_MEANS_ROUNDS = 10
ROUTER_CONFIDENCE = 0.8  # gate probability that the median calibration token gets at the start


def best_heads(
    attention: SelfAttention, context: Float[Tensor, "tokens heads head_width"], n_heads: int
) -> Int[Tensor, " kept"]:
    """The heads whose contributions to the block's output are largest on the calibration tokens, in order.

    All heads if the student has as many or more.
    """
    output = attention.output.weight.view(-1, attention.n_heads, attention.head_width)
    size = torch.stack([(context[:, h] @ output[:, h].T).square().sum() for h in range(attention.n_heads)])
    return size.topk(min(n_heads, attention.n_heads)).indices.sort().values


def shrink_heads(
    attention: SelfAttention, heads: Int[Tensor, " kept"], head_width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Fused query-key-value weight and bias and the output weight of some heads, at another head width.

    A head is two bilinear forms: query-key and value-output. Each is cut to its best approximation of
    rank `head_width` (singular value decomposition), which is exact where the width does not shrink.
    """
    n_heads, old_width = attention.n_heads, attention.head_width
    qkv = torch.cat([attention.qkv.weight, attention.qkv.bias[:, None]], dim=1).view(3, n_heads, old_width, -1)[
        :, heads
    ]
    output = attention.output.weight.view(-1, n_heads, old_width)[:, heads]
    if head_width == old_width:
        parts, kept_output = qkv, output
    else:
        pieces, outputs = [], []
        for i in range(len(heads)):
            query, key = _low_rank(qkv[0, i], qkv[1, i], head_width)
            correction = (head_width / old_width) ** 0.25  # scores are divided by the root of the head width
            value, mixed = _low_rank(qkv[2, i], output[:, i].T, head_width)
            pieces.append(torch.stack([query * correction, key * correction, value]))
            outputs.append(mixed.T)
        parts, kept_output = torch.stack(pieces, dim=1), torch.stack(outputs, dim=1)
    stacked = parts.reshape(3 * len(heads) * head_width, -1)
    return stacked[:, :-1], stacked[:, -1], kept_output.reshape(len(output), -1)


def best_units(
    output_weight: Float[Tensor, "width units"], unit_squares: Float[Tensor, " units"], n_units: int
) -> Int[Tensor, " kept"]:
    """The units with the largest mean square contribution to the block's output, in order; at most all."""
    size = unit_squares * output_weight.square().sum(dim=0)
    return size.topk(min(n_units, len(size))).indices.sort().values


def principal_directions(states: Float[Tensor, "tokens width"], n_directions: int) -> Float[Tensor, "width directions"]:
    """Orthonormal directions that keep most of the states' mean square."""
    _, vectors = torch.linalg.eigh((states.T @ states / len(states)).double())
    directions: Tensor = vectors[:, -n_directions:].flip(1).to(states.dtype)
    return directions


def factorise(
    table: Float[Tensor, "rows width"], counts: Int[Tensor, " rows"], embedding_dim: int
) -> tuple[Float[Tensor, "rows embedding_dim"], Float[Tensor, "width embedding_dim"]]:
    """The best factorisation of a table, its rows weighted by how often they occur (plus one)."""
    weighted = table * (counts + 1).to(table.dtype).sqrt()[:, None]
    directions = principal_directions(weighted, min(embedding_dim, table.shape[1]))
    return table @ directions, directions


def divide_tokens(
    tokens: Float[Tensor, "tokens width"], n_experts: int, *, seed: int
) -> tuple[Float[Tensor, "experts width"], Int[Tensor, " tokens"]]:
    """A router's weight and the expert it sends each token to: spherical k-means around the tokens' mean.

    The router's scores are inner products with unit centroids, scaled so that the median token's gate is
    `ROUTER_CONFIDENCE`.
    """
    generator = torch.Generator(CPU).manual_seed(seed)  # equal seeds begin alike on every device
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    first = torch.randperm(len(unit), generator=generator, device=CPU)[:n_experts]
    centroids = unit[first.to(unit.device)].clone()
    if len(centroids) < n_experts:
        raise ValueError(f"{n_experts} experts need at least as many calibration tokens, got {len(unit)}")
    for _ in range(K_MEANS_ROUNDS):
        choice = (unit @ centroids.T).argmax(dim=1)
        for expert in range(n_experts):
            if (choice == expert).any():
                centroids[expert] = torch.nn.functional.normalize(unit[choice == expert].mean(dim=0), dim=0)
    scores = tokens @ centroids.T
    low, high = 1e-3, 1e3
    for _ in range(40):  # bisection: the median gate grows with the scale
        middle = math.sqrt(low * high)
        gate = torch.softmax(middle * scores, dim=-1).max(dim=-1).values.median()
        low, high = (middle, high) if gate < ROUTER_CONFIDENCE else (low, middle)
    return low * centroids, scores.argmax(dim=-1)


def _low_rank(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors [rank, m] and [rank, n] whose product is closest to left.T @ right; zeros fill a rank beyond theirs."""
    left_q, left_r = torch.linalg.qr(left.T)
    right_q, right_r = torch.linalg.qr(right.T)
    u, s, v = torch.linalg.svd(left_r @ right_r.T)
    kept = min(rank, len(s))
    new_left = torch.zeros(rank, left.shape[1], device=left.device)
    new_right = torch.zeros(rank, right.shape[1], device=right.device)
    new_left[:kept] = (left_q @ u[:, :kept] * s[:kept].sqrt()).T
    new_right[:kept] = (right_q @ v[:kept].T * s[:kept].sqrt()).T
    return new_left, new_right
