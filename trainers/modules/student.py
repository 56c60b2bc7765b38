# SPDX-License-Identifier: Apache-2.0
"""The student network: embeddings, layers, pooling, projection, static path, normalisation.

Parameter names are the tensor names of a student folder (`runtime.folder`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from spaces.student import Pooling, Projection
from trainers.modules.attention import SelfAttention, padding_bias
from trainers.modules.embeddings import Embeddings, StaticPath
from trainers.modules.feed_forward import DenseFeedForward
from trainers.modules.switch import SwitchFeedForward


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentOutput:
    """The outputs of a forward pass."""

    embeddings: Float[Tensor, "batch output_dim"]
    """Sentence vectors, of length 1 if the spec says normalise."""
    hidden: Float[Tensor, "batch tokens width"] | None
    """Last hidden states; None at depth 0."""
    qkv: Float[Tensor, "batch tokens qkv"] | None
    """Queries, keys and values of the last layer, side by side; None at depth 0."""
    balance_loss: Float[Tensor, ""]
    """Mean load-balance loss of the Switch layers; 0 without them."""


class Layer(nn.Module):
    """One transformer layer: attention, then feed-forward."""

    def __init__(self, attention: SelfAttention, feed_forward: DenseFeedForward | SwitchFeedForward) -> None:
        super().__init__()
        self.attention = attention
        self.feed_forward = feed_forward


class Student(nn.Module):
    """Token ids to sentence vectors. Either of `embeddings` (with `layers`) and `static` may be None, not both."""

    def __init__(
        self,
        *,
        embeddings: Embeddings | None,
        layers: list[Layer],
        pooling: Pooling,
        projection: nn.Linear | None,
        projection_kind: Projection | None,
        static: StaticPath | None,
        normalise: bool,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.layers = nn.ModuleList(layers)
        self.pooling = pooling
        self.projection = projection
        self.projection_kind = projection_kind
        self.static = static
        self.normalise = normalise

    def forward(
        self, token_ids: Int[Tensor, "batch tokens"], mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> StudentOutput:
        """Encode a batch; `mask` is true for tokens, false for padding (None: no padding)."""
        return self.encode(
            token_ids,
            mask,
            token_rows=None if self.embeddings is None else self.embeddings.tokens,
            static_rows=None if self.static is None else self.static.tokens,
        )

    def encode(
        self,
        index: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"] | None,
        *,
        token_rows: Float[Tensor, "n_rows columns"] | None,
        static_rows: Float[Tensor, "n_rows static_columns"] | None,
    ) -> StudentOutput:
        """Encode a batch whose `index` points into given table rows instead of into the whole tables."""
        hidden, qkv, sentence, balance_losses = None, None, None, []
        if self.embeddings is not None:
            assert token_rows is not None
            x = self.embeddings(index, token_rows)
            bias = None if mask is None else padding_bias(mask, x.dtype)
            for layer in self.layers:
                x, qkv = layer.attention(x, bias)  # type: ignore[operator]
                match layer.feed_forward:
                    case SwitchFeedForward() as switch:
                        x, balance_loss = switch(x, mask)
                        balance_losses.append(balance_loss)
                    case dense:
                        x = dense(x)  # type: ignore[operator]
            hidden = x
            sentence = self._project(self._pool(x, mask))
        if self.static is not None:
            assert static_rows is not None
            static = self.static(index, static_rows, mask)
            sentence = static if sentence is None else sentence.to(static.dtype) + static
        assert sentence is not None
        return StudentOutput(
            embeddings=functional.normalize(sentence, dim=-1) if self.normalise else sentence,
            hidden=hidden,
            qkv=qkv,
            balance_loss=(
                torch.stack(balance_losses).mean() if balance_losses else torch.zeros((), device=sentence.device)
            ),
        )

    def _pool(
        self, x: Float[Tensor, "batch tokens width"], mask: Bool[Tensor, "batch tokens"] | None
    ) -> Float[Tensor, "batch width"]:
        if self.pooling is Pooling.CLS:
            return x[:, 0]
        if mask is None:
            return x.mean(dim=1)
        weights = mask.to(x.dtype)[:, :, None]
        return (x * weights).sum(dim=1) / weights.sum(dim=1)

    def _project(self, pooled: Float[Tensor, "batch width"]) -> Float[Tensor, "batch output_dim"]:
        if self.projection is None:
            return pooled
        projected: Tensor = self.projection(pooled)
        return torch.tanh(projected) if self.projection_kind is Projection.TANH else projected
