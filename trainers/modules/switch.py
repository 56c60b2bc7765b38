# SPDX-License-Identifier: Apache-2.0
"""The Switch feed-forward block: top-1 routing with capacity and a load-balance loss (Fedus et al. 2021).

In training each expert takes at most `capacity_factor * tokens / experts` tokens, first come first
served; a token over capacity passes through the residual connection only. In evaluation there is no
capacity, so a sentence's vector does not depend on its batch.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from spaces.student import Activation
from trainers.modules.feed_forward import activation_function


class ExpertLinear(nn.Module):
    """One linear layer per expert: weight [experts, outputs, inputs], bias [experts, outputs]."""

    def __init__(self, n_experts: int, n_inputs: int, n_outputs: int, *, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_experts, n_outputs, n_inputs, device=device))
        self.bias = nn.Parameter(torch.zeros(n_experts, n_outputs, device=device))

    def forward(self, x: Float[Tensor, "tokens inputs"], expert: int) -> Float[Tensor, "tokens outputs"]:
        """Apply one expert's layer."""
        return functional.linear(x, self.weight[expert], self.bias[expert])


class SwitchFeedForward(nn.Module):
    """Each token goes through one expert, chosen by a router and scaled by the router's probability."""

    def __init__(
        self,
        width: int,
        units: int,
        n_experts: int,
        *,
        capacity_factor: float,
        activation: Activation,
        layer_norm_epsilon: float,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.n_experts = n_experts
        self.capacity_factor = capacity_factor
        self.activation = activation_function(activation)
        self.router = nn.Linear(width, n_experts, bias=False, device=device)
        self.experts_input = ExpertLinear(n_experts, width, units, device=device)
        self.experts_output = ExpertLinear(n_experts, units, width, device=device)
        self.norm = nn.LayerNorm(width, eps=layer_norm_epsilon, device=device)

    def forward(
        self, x: Float[Tensor, "batch tokens width"], mask: Tensor | None
    ) -> tuple[Float[Tensor, "batch tokens width"], Float[Tensor, ""]]:
        """The block's output and the balance loss over the tokens that `mask` keeps: 1 when routing is uniform."""
        flat = x.reshape(-1, x.shape[-1])
        kept = None if mask is None else mask.reshape(-1).nonzero().squeeze(1)
        routed = flat if kept is None else flat[kept]
        probabilities = torch.softmax(self.router(routed).float(), dim=-1)
        gate, choice = probabilities.max(dim=-1)
        capacity = math.ceil(self.capacity_factor * len(routed) / self.n_experts) if self.training else len(routed)

        index, pieces = [], []
        for expert in range(self.n_experts):
            tokens = (choice == expert).nonzero().squeeze(1)[:capacity]
            if len(tokens):
                hidden = self.activation(self.experts_input(routed[tokens], expert))
                index.append(tokens)
                pieces.append(self.experts_output(hidden, expert) * gate[tokens, None].to(flat.dtype))
        mixed = torch.zeros_like(routed).index_copy(0, torch.cat(index), torch.cat(pieces))
        if kept is not None:
            mixed = torch.zeros_like(flat).index_copy(0, kept, mixed)

        share = functional.one_hot(choice, self.n_experts).float().mean(dim=0)
        balance_loss = self.n_experts * (share * probabilities.mean(dim=0)).sum()
        return self.norm(x + mixed.view_as(x)), balance_loss
