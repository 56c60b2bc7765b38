# SPDX-License-Identifier: Apache-2.0
"""The forward pass of every student in NumPy: it serves students without torch, and is an oracle for torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from runtime.folder import check_weights
from runtime.layers import (
    Array,
    BooleanArray,
    TokenIds,
    activate,
    attention,
    layer_norm,
    linear,
    masked_mean,
    normalise,
    switch,
)
from runtime.tokenizer import SentenceTokenizer
from spaces.student import Dense, EncoderSpec, Pooling, Projection, StudentSpec, Switch


class Encoder:
    """A student that runs on NumPy alone."""

    def __init__(
        self,
        spec: StudentSpec,
        weights: Mapping[str, NDArray[np.float32]],
        *,
        tokenizer: SentenceTokenizer | None = None,
        are_checked: bool = False,
    ) -> None:
        """`weights` are the spec's tensors (see `runtime.folder`); without a tokenizer only `forward` works.

        Those that `read_folder` returns are checked already.
        """
        if not are_checked:
            check_weights(spec, weights, origin="weights")
        if tokenizer is not None:
            tokenizer.check_fits(spec)
        self.spec = spec
        self.tokenizer = tokenizer
        self._weights = dict(weights)

    def encode(self, sentences: Sequence[str], *, batch_size: int = 32, n_threads: int = 1) -> Array:
        """One vector per sentence, in order: [n, output_dim]; an empty list gives [0, output_dim].

        `n_threads` has no effect: it is there for the engine's signature. NumPy uses BLAS's own number of threads.
        """
        if self.tokenizer is None:
            raise ValueError("this encoder has no tokenizer; load a student folder, or call forward with token ids")
        return self.encode_token_ids(self.tokenizer.encode(sentences), batch_size=batch_size, n_threads=n_threads)

    def encode_token_ids(
        self, token_ids: Sequence[NDArray[np.int32]], *, batch_size: int = 32, n_threads: int = 1
    ) -> Array:
        """One vector per sentence of token ids, special tokens included, in order: [n, output_dim].

        Raises ValueError as `forward` does.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        lengths = np.array([len(ids) for ids in token_ids], dtype=np.int64)
        vectors = np.empty((len(token_ids), self.spec.output_dim), dtype=np.float32)
        order = np.argsort(-lengths, kind="stable")  # like lengths together; the longest first, so memory peaks early
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            n_tokens = max(int(lengths[rows[0]]), 1)  # a tokenizer without special tokens gives an empty sentence none
            batch = np.zeros((len(rows), n_tokens), dtype=np.int32)
            for i, row in enumerate(rows):
                batch[i, : lengths[row]] = token_ids[row]
            mask = np.arange(n_tokens) < lengths[rows, None]
            vectors[rows] = self.forward(batch, None if mask.all() else mask)
        return vectors

    def forward(self, token_ids: TokenIds, mask: BooleanArray | None = None) -> Array:
        """Token ids [batch, tokens] and mask [batch, tokens] (None: every token counts) -> vectors [batch, output_dim].

        Raises ValueError for ids outside the vocabulary and for more tokens than the student has positions.
        """
        if token_ids.size and not (token_ids.min() >= 0 and token_ids.max() < self.spec.vocabulary_size):
            raise ValueError(
                f"token ids must lie in 0 to {self.spec.vocabulary_size - 1}, got {token_ids.min()} to "
                f"{token_ids.max()}; use the student's own tokenizer"
            )
        vectors = np.zeros((token_ids.shape[0], self.spec.output_dim), dtype=np.float32)
        if self.spec.encoder is not None:
            vectors += self._encode(token_ids, mask, self.spec.encoder)
        if self.spec.static is not None:
            static = masked_mean(self._weights["static.tokens"][token_ids], mask)
            expand = self._weights.get("static.expand")
            vectors += static if expand is None else linear(static, expand, None)
        return normalise(vectors) if self.spec.normalise else vectors

    def _encode(self, token_ids: TokenIds, mask: BooleanArray | None, encoder: EncoderSpec) -> Array:
        batch, n_tokens = token_ids.shape
        if n_tokens > encoder.max_tokens:
            raise ValueError(f"at most {encoder.max_tokens} tokens fit this student, got {n_tokens}; cut the sentences")
        x = self._weights["embeddings.tokens"][token_ids.reshape(-1)]
        expand = self._weights.get("embeddings.expand")
        if expand is not None:
            x = linear(x, expand, None)
        x = x.reshape(batch, n_tokens, encoder.width) + self._weights["embeddings.positions"][:n_tokens]
        x = self._norm(x.reshape(-1, encoder.width), "embeddings.norm", encoder)
        for i in range(encoder.n_layers):
            qkv = self._linear(x, f"layers.{i}.attention.qkv").reshape(batch, n_tokens, -1)
            context = attention(qkv, mask, n_heads=encoder.n_heads).reshape(-1, encoder.attention_width)
            x = self._norm(
                x + self._linear(context, f"layers.{i}.attention.output"), f"layers.{i}.attention.norm", encoder
            )
            x = self._norm(x + self._feed_forward(x, i, encoder), f"layers.{i}.feed_forward.norm", encoder)
        hidden = x.reshape(batch, n_tokens, encoder.width)
        pooled = masked_mean(hidden, mask) if encoder.pooling is Pooling.MEAN else hidden[:, 0]
        match encoder.projection:
            case None:
                return pooled
            case Projection.LINEAR:
                return self._linear(pooled, "projection")
            case Projection.TANH:
                return np.tanh(self._linear(pooled, "projection"))
            case _:
                assert_never(encoder.projection)

    def _feed_forward(self, x: Array, layer: int, encoder: EncoderSpec) -> Array:
        name = f"layers.{layer}.feed_forward"
        match encoder.feed_forward:
            case Dense():
                hidden = activate(self._linear(x, f"{name}.input"), encoder.activation)
                return self._linear(hidden, f"{name}.output")
            case Switch():
                return switch(
                    x,
                    self._weights[f"{name}.router.weight"],
                    input_weight=self._weights[f"{name}.experts_input.weight"],
                    input_bias=self._weights[f"{name}.experts_input.bias"],
                    output_weight=self._weights[f"{name}.experts_output.weight"],
                    output_bias=self._weights[f"{name}.experts_output.bias"],
                    activation=encoder.activation,
                )
            case _:
                assert_never(encoder.feed_forward)

    def _linear(self, x: Array, name: str) -> Array:
        return linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, x: Array, name: str, encoder: EncoderSpec) -> Array:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return layer_norm(x, weight, bias, epsilon=encoder.layer_norm_epsilon)
