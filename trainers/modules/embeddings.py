# SPDX-License-Identifier: Apache-2.0
"""The two token tables: the encoder's embeddings and the static path, each full or factorised.

Both take an index and the rows that it points into. Plainly these are the token ids and the whole table;
in training they are positions in the few rows that a batch uses (`trainers.distil.row_adam`), so that
neither the backward pass nor the optimiser processes the whole vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional


class Embeddings(nn.Module):
    """Token vectors plus position vectors, normalised."""

    def __init__(
        self,
        vocabulary_size: int,
        width: int,
        *,
        embedding_dim: int | None,
        max_tokens: int,
        layer_norm_epsilon: float,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(vocabulary_size, embedding_dim or width, device=device))
        self.expand = None if embedding_dim is None else nn.Parameter(torch.empty(width, embedding_dim, device=device))
        self.positions = nn.Parameter(torch.empty(max_tokens, width, device=device))
        self.norm = nn.LayerNorm(width, eps=layer_norm_epsilon, device=device)

    def forward(
        self, index: Int[Tensor, "batch tokens"], rows: Float[Tensor, "n_rows columns"]
    ) -> Float[Tensor, "batch tokens width"]:
        """The first layer's input. Raises ValueError if a sentence is longer than the position table."""
        n_tokens = index.shape[1]
        if n_tokens > len(self.positions):
            raise ValueError(
                f"a sentence has {n_tokens} tokens and the student takes at most {len(self.positions)}; truncate it"
            )
        x = _widen(functional.embedding(index, rows), self.expand)
        out: Tensor = self.norm(x + self.positions[:n_tokens])
        return out


class StaticPath(nn.Module):
    """The mean of one vector per token."""

    def __init__(
        self, vocabulary_size: int, output_dim: int, *, embedding_dim: int | None, device: torch.device
    ) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(vocabulary_size, embedding_dim or output_dim, device=device))
        self.expand = (
            None if embedding_dim is None else nn.Parameter(torch.empty(output_dim, embedding_dim, device=device))
        )

    def forward(
        self,
        index: Int[Tensor, "batch tokens"],
        rows: Float[Tensor, "n_rows columns"],
        mask: Bool[Tensor, "batch tokens"] | None,
    ) -> Float[Tensor, "batch output_dim"]:
        """The mean of the rows of the tokens that `mask` keeps (None: all)."""
        if mask is None:
            mean = functional.embedding_bag(index, rows, mode="mean")
        else:
            weights = mask.to(rows.dtype)
            total = functional.embedding_bag(index, rows, mode="sum", per_sample_weights=weights)
            mean = total / weights.sum(dim=1, keepdim=True)
        return _widen(mean, self.expand)


def _widen(rows: Tensor, expand: Tensor | None) -> Tensor:
    return rows if expand is None else functional.linear(rows, expand.to(rows.dtype))
