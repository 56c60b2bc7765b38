# SPDX-License-Identifier: Apache-2.0
"""Sparse Adam for token tables: only the rows that a batch uses are updated.

A batch of 1,500 tokens touches some 600 of 30,000 rows; a dense update of the table takes an
eighth of a training step. Each row keeps its own step count, so that the bias correction of a
rare token's first update is that of a first update.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-8  # a shorter memory than Adam's usual 0.999: rows are seen seldom


class RowAdam:
    """Adam state for one table; `step` updates the table's touched rows in place."""

    def __init__(self, table: Float[Tensor, "rows columns"]) -> None:
        self.table = table
        self.mean = torch.zeros_like(table)
        self.square = torch.zeros_like(table)
        self.n_updates = torch.zeros(len(table), device=table.device)

    @torch.no_grad()
    def step(
        self, rows: Int[Tensor, " touched"], gradient: Float[Tensor, "touched columns"], *, learning_rate: float
    ) -> None:
        """Update distinct `rows` with their gradient."""
        gradient = gradient.to(self.table.dtype)
        n_updates = self.n_updates[rows] + 1
        mean = self.mean[rows].lerp_(gradient, 1.0 - BETA1)
        square = self.square[rows].mul_(BETA2).addcmul_(gradient, gradient, value=1.0 - BETA2)
        self.n_updates[rows], self.mean[rows], self.square[rows] = n_updates, mean, square
        size = learning_rate * (1.0 - BETA2**n_updates).sqrt() / (1.0 - BETA1**n_updates)
        self.table[rows] -= size[:, None] * mean / square.sqrt_().add_(EPSILON)

    def state(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint keeps."""
        return {"mean": self.mean, "square": self.square, "n_updates": self.n_updates}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from the tensors that `state` returned."""
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self.n_updates.copy_(state["n_updates"])
