# SPDX-License-Identifier: Apache-2.0
"""The terms of the distillation loss. Each is a pure function and is 0 when student and teacher agree."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


def cosine_loss(student: Float[Tensor, "batch dim"], teacher: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Mean of 1 - cosine."""
    return 1.0 - functional.cosine_similarity(student, teacher, dim=-1).mean()


def length_loss(student: Float[Tensor, "batch dim"], teacher: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Mean smooth L1 of the logarithm of the ratio of lengths: half its square, or linear beyond a factor of e.

    For small errors its sum with the cosine loss is half the squared distance relative to the teacher's length. Unlike
    that distance it does not shorten vectors whose direction is uncertain: its gradient is along the vector, that of
    the cosine loss across it.
    """
    smallest = torch.finfo(torch.float32).tiny
    lengths = [vectors.norm(dim=-1).clamp_min(smallest).log() for vectors in (student, teacher)]
    return functional.smooth_l1_loss(*lengths)


def similarity_loss(
    student: Float[Tensor, "batch dim"], teacher: Float[Tensor, "batch dim"], *, temperature: float
) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence of each sentence's softmax over its similarities to the batch's others.

    Times the temperature, so that its gradient stays of the cosine loss's order.
    """
    if len(student) < 2:
        return student.sum() * 0.0
    others = ~torch.eye(len(student), dtype=torch.bool, device=student.device)

    def log_neighbours(vectors: Tensor) -> Tensor:
        unit = functional.normalize(vectors, dim=-1)
        similarities = (unit @ unit.T)[others].view(len(vectors), -1)
        return torch.log_softmax(similarities / temperature, dim=-1)

    return temperature * functional.kl_div(
        log_neighbours(student), log_neighbours(teacher), log_target=True, reduction="batchmean"
    )


def relation_loss(
    student: tuple[Float[Tensor, "batch tokens student_width"], Float[Tensor, "batch tokens student_width"]],
    teacher: tuple[Float[Tensor, "batch tokens teacher_width"], Float[Tensor, "batch tokens teacher_width"]],
    mask: Bool[Tensor, "batch tokens"] | None,
    *,
    n_heads: int,
) -> Float[Tensor, ""]:
    """Deep self-attention distillation: divergence of scaled dot-product relations, a mean over tokens and heads.

    The two tensors of a pair are queries and keys, or values and values. Both sides are regrouped into
    `n_heads` relation heads, so head counts and widths of student and teacher need not match
    (MiniLMv2, Wang et al. 2021).
    """
    student_relations = _log_relations(*student, mask, n_heads=n_heads)
    teacher_relations = _log_relations(*teacher, mask, n_heads=n_heads)
    ratio = (teacher_relations - student_relations).masked_fill(teacher_relations == -math.inf, 0.0)
    divergence = (teacher_relations.exp() * ratio).sum(dim=-1)
    if mask is None:
        return divergence.mean()
    weights = mask[:, None, :].to(divergence.dtype)
    return (divergence * weights).sum() / (weights.sum() * n_heads)


def hidden_loss(
    student: Float[Tensor, "batch tokens width"],
    teacher: Float[Tensor, "batch tokens width"],
    mask: Bool[Tensor, "batch tokens"] | None,
) -> Float[Tensor, ""]:
    """Mean squared error of hidden states over real tokens, relative to the teacher's mean square."""
    weights = torch.ones(student.shape[:2], device=student.device) if mask is None else mask.float()
    error = ((student.float() - teacher.float()).square().mean(dim=-1) * weights).sum()
    return error / ((teacher.float().square().mean(dim=-1) * weights).sum() + 1e-12)


def _log_relations(left: Tensor, right: Tensor, mask: Tensor | None, *, n_heads: int) -> Tensor:
    batch, tokens, width = left.shape
    if width % n_heads:
        raise ValueError(f"relation heads must divide the attention width: {n_heads} heads, width {width}")
    shape = (batch, tokens, n_heads, width // n_heads)
    left, right = left.reshape(shape).transpose(1, 2), right.reshape(shape).transpose(1, 2)
    scores = (left @ right.transpose(-1, -2)).float() / math.sqrt(width // n_heads)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], -math.inf)
    return torch.log_softmax(scores, dim=-1)
