# SPDX-License-Identifier: Apache-2.0
"""The sparse Adam equals torch's where every row is touched, and leaves untouched rows alone."""

import torch

from trainers.distil.row_adam import BETA1, BETA2, EPSILON, RowAdam


def test_touching_every_row_equals_torch_adam() -> None:
    table = torch.randn(5, 3)
    expected = torch.nn.Parameter(table.clone())
    optimiser = torch.optim.Adam([expected], lr=0.01, betas=(BETA1, BETA2), eps=EPSILON)
    rows = RowAdam(table)
    for _ in range(6):
        gradient = torch.randn(5, 3)
        expected.grad = gradient.clone()
        optimiser.step()
        rows.step(torch.arange(5), gradient, learning_rate=0.01)
    torch.testing.assert_close(table, expected.detach(), rtol=1e-4, atol=1e-5)


def test_untouched_rows_stay_and_a_rare_row_moves_as_at_first() -> None:
    table = torch.zeros(3, 2)
    rows = RowAdam(table)
    for _ in range(50):
        rows.step(torch.tensor([0]), torch.randn(1, 2), learning_rate=0.01)
    assert torch.equal(table[1:], torch.zeros(2, 2))
    rows.step(torch.tensor([2]), torch.tensor([[0.5, -2.0]]), learning_rate=0.01)
    torch.testing.assert_close(table[2], torch.tensor([-0.01, 0.01]))
