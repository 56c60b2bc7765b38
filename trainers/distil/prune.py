# SPDX-License-Identifier: Apache-2.0
"""Gradual block pruning while a student learns (Zhu and Gupta 2017; block scores as in movement pruning).

A block is 16 outputs x 4 inputs of a matrix. Its score is a running mean of |weight x gradient| summed
over the block. The share of zero blocks of every matrix rises along a cubic to the spec's ratio; until then a
block that was cut may come back, from then on the masks are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spaces.student import BLOCK_INPUTS, BLOCK_OUTPUTS, n_zero_blocks
from trainers.modules.device import CPU
from trainers.modules.student import Student

SCORE_DECAY = 0.9  # of the running mean of scores, per update
UPDATE_EVERY_STEPS = 4  # masks are recomputed at most this often while the ratio rises


def prunable_matrices(student: Student) -> Iterator[tuple[str, Tensor]]:
    """(name, weight [..., outputs, inputs]) of attention and feed-forward matrices; routers and tables stay dense."""
    for name, parameter in student.named_parameters():
        if name.startswith("layers.") and name.endswith("weight") and "norm" not in name and "router" not in name:
            yield name, parameter


def block_sums(matrix: Float[Tensor, "*experts outputs inputs"]) -> Float[Tensor, "*experts row_blocks column_blocks"]:
    """The sum of each block."""
    *experts, outputs, inputs = matrix.shape
    blocks = matrix.reshape(*experts, outputs // BLOCK_OUTPUTS, BLOCK_OUTPUTS, inputs // BLOCK_INPUTS, BLOCK_INPUTS)
    return blocks.sum(dim=(-3, -1))


def lowest_blocks_mask(
    scores: Float[Tensor, "*experts row_blocks column_blocks"], sparsity: float
) -> Bool[Tensor, "*experts outputs inputs"]:
    """True where a weight is kept: per matrix (and expert), exactly the ratio's number of lowest blocks is cut."""
    flat = scores.flatten(-2)
    keep = torch.ones_like(flat, dtype=torch.bool)
    cut = flat.argsort(dim=-1, stable=True)[..., : n_zero_blocks(flat.shape[-1], sparsity)]
    keep.scatter_(-1, cut, torch.zeros_like(cut, dtype=torch.bool))
    keep = keep.view(scores.shape)
    return keep.repeat_interleave(BLOCK_OUTPUTS, dim=-2).repeat_interleave(BLOCK_INPUTS, dim=-1)


class BlockPruner:
    """Prunes a student's matrices in place as training goes on."""

    def __init__(self, student: Student, *, sparsity: float, pruning_tokens: int) -> None:
        self.sparsity = sparsity
        self.pruning_tokens = pruning_tokens
        self.weights = dict(prunable_matrices(student))
        self.scores = {name: block_sums(weight.detach().abs()) * 0.0 for name, weight in self.weights.items()}
        self.masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()}
        self.n_steps = 0
        self.finished = False

    def ratio(self, n_tokens: int) -> float:
        """The share of zero blocks after this many training tokens."""
        progress = 1.0 if self.pruning_tokens == 0 else min(1.0, n_tokens / self.pruning_tokens)
        return self.sparsity * (1.0 - (1.0 - progress) ** 3)

    @torch.no_grad()
    def update(self, gradients: Mapping[str, Tensor], *, n_tokens: int) -> None:
        """Take a step's gradients into the scores, recompute masks while the ratio rises, and zero what is cut."""
        if not self.finished:
            for name, weight in self.weights.items():
                saliency = block_sums((weight * gradients[name]).abs())
                self.scores[name].lerp_(saliency, 1.0 - SCORE_DECAY if self.n_steps else 1.0)
            last = n_tokens >= self.pruning_tokens
            if last or self.n_steps % UPDATE_EVERY_STEPS == 0:
                for name in self.weights:
                    self.masks[name] = lowest_blocks_mask(self.scores[name], self.ratio(n_tokens))
            self.finished = last
            self.n_steps += 1
        self.apply(self.weights)

    @torch.no_grad()
    def prune_by_magnitude(self, weights: Mapping[str, Tensor]) -> None:
        """Zero the blocks of least absolute sum, to the spec's sparsity: what pruning without training gives."""
        for name in self.weights:
            weights[name].mul_(lowest_blocks_mask(block_sums(weights[name].abs()), self.sparsity))

    @torch.no_grad()
    def apply(self, weights: Mapping[str, Tensor]) -> None:
        """Zero the cut blocks of these weights (the student's, or an average of them)."""
        for name, mask in self.masks.items():
            weights[name].mul_(mask)

    def state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint keeps; masks are kept one flag per weight."""
        counters = torch.tensor([self.n_steps, int(self.finished)], device=CPU)
        return (
            {"counters": counters}
            | {f"score.{name}": score for name, score in self.scores.items()}
            | {f"mask.{name}": mask for name, mask in self.masks.items()}
        )

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from the tensors that `state` returned."""
        self.n_steps, self.finished = int(state["counters"][0]), bool(state["counters"][1])
        for name in self.weights:
            self.scores[name].copy_(state[f"score.{name}"])
            self.masks[name] = state[f"mask.{name}"].clone()
