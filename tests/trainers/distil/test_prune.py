# SPDX-License-Identifier: Apache-2.0
"""Gradual block pruning ends at exactly the ratio, per matrix, in whole blocks of real zeros."""

import pytest
import torch

from spaces.student import Dense, EncoderSpec, StudentSpec, Switch, n_zero_blocks
from trainers.distil.prune import BlockPruner, block_sums, lowest_blocks_mask, prunable_matrices
from trainers.modules.build import build


def student_with(feed_forward: Dense | Switch) -> torch.nn.Module:
    encoder = EncoderSpec(
        n_layers=2, width=32, n_heads=2, head_width=16, feed_forward=feed_forward, max_tokens=8, sparsity=0.7
    )
    return build(StudentSpec(vocabulary_size=20, output_dim=32, encoder=encoder), seed=0)


@pytest.mark.parametrize("feed_forward", [Dense(units=48), Switch(n_experts=2, units=16)])
def test_every_matrix_ends_with_exactly_its_share_of_zero_blocks(feed_forward: Dense | Switch) -> None:
    student = student_with(feed_forward)
    pruner = BlockPruner(student, sparsity=0.7, pruning_tokens=100)
    for n_tokens in range(0, 130, 10):
        pruner.update({name: torch.randn_like(weight) for name, weight in pruner.weights.items()}, n_tokens=n_tokens)
    for _, weight in prunable_matrices(student):
        blocks = block_sums(weight.detach().abs()).flatten(-2)
        n_zero = (blocks == 0).sum(dim=-1)
        assert (n_zero == n_zero_blocks(blocks.shape[-1], 0.7)).all()


def test_the_ratio_rises_along_a_cubic() -> None:
    pruner = BlockPruner(student_with(Dense(units=48)), sparsity=0.8, pruning_tokens=1000)
    assert [pruner.ratio(n) for n in (0, 500, 1000, 5000)] == pytest.approx([0.0, 0.8 * 0.875, 0.8, 0.8])


def test_masks_are_fixed_once_the_ratio_is_reached() -> None:
    pruner = BlockPruner(student_with(Dense(units=48)), sparsity=0.5, pruning_tokens=10)
    pruner.update({name: torch.randn_like(weight) for name, weight in pruner.weights.items()}, n_tokens=10)
    masks = {name: mask.clone() for name, mask in pruner.masks.items()}
    pruner.update({name: 100 * torch.randn_like(weight) for name, weight in pruner.weights.items()}, n_tokens=20)
    assert all(torch.equal(mask, pruner.masks[name]) for name, mask in masks.items())


def test_the_lowest_blocks_are_cut_and_ties_are_cut_exactly() -> None:
    scores = torch.tensor([[3.0, 1.0], [2.0, 4.0]])
    mask = lowest_blocks_mask(scores, 0.5)
    assert mask.shape == (32, 8)
    assert block_sums(mask.float()).tolist() == [[64.0, 0.0], [0.0, 64.0]]
    assert int((~lowest_blocks_mask(torch.zeros(4, 5), 0.3)).sum()) == 6 * 64
