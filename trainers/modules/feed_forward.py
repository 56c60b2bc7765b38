# SPDX-License-Identifier: Apache-2.0
"""The dense feed-forward block, post-norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from spaces.student import Activation

ActivationFunction = Callable[[Tensor], Tensor]


class DenseFeedForward(nn.Module):
    """width -> units -> width with a residual connection and layer norm."""

    def __init__(
        self, width: int, units: int, *, activation: Activation, layer_norm_epsilon: float, device: torch.device
    ) -> None:
        super().__init__()
        self.activation = activation_function(activation)
        self.input = nn.Linear(width, units, device=device)
        self.output = nn.Linear(units, width, device=device)
        self.norm = nn.LayerNorm(width, eps=layer_norm_epsilon, device=device)

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """The block's output."""
        out: Tensor = self.norm(x + self.output(self.activation(self.input(x))))
        return out


def activation_function(activation: Activation) -> ActivationFunction:
    """The function that a spec's activation names."""
    match activation:
        case Activation.GELU:
            return functional.gelu
        case Activation.GELU_TANH:
            return _gelu_tanh
        case Activation.RELU:
            return functional.relu
        case _:
            assert_never(activation)


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")
