# SPDX-License-Identifier: Apache-2.0
"""A student in words, as tables, logs and the registry show it."""

from __future__ import annotations

from typing import assert_never

from spaces.student import Dense, FeedForward, Pooling, StudentSpec, Switch


def describe(spec: StudentSpec | None) -> str:
    """A student in words, such as `3 x 384, 12 heads, dense 1536, static`."""
    if spec is None:
        return "cannot be built"
    encoder = spec.encoder
    if encoder is None:
        assert spec.static is not None
        return "static" if spec.static.embedding_dim is None else f"static {spec.static.embedding_dim}"
    words = [f"{encoder.n_layers} x {encoder.width}", f"{encoder.n_heads} heads"]
    if encoder.head_width * encoder.n_heads != encoder.width:
        words[-1] += f" of {encoder.head_width}"
    words.append(_describe_feed_forward(encoder.feed_forward))
    if encoder.sparsity > 0.0:
        words.append(f"{encoder.sparsity:.0%} sparse")
    if encoder.embedding_dim is not None:
        words.append(f"embedding {encoder.embedding_dim}")
    if encoder.pooling is not Pooling.MEAN:
        words.append(encoder.pooling.value)
    if spec.static is not None:
        words.append("static" if spec.static.embedding_dim is None else f"static {spec.static.embedding_dim}")
    return ", ".join(words)


def _describe_feed_forward(feed_forward: FeedForward) -> str:
    match feed_forward:
        case Dense():
            return f"dense {feed_forward.units}"
        case Switch():
            return f"switch {feed_forward.n_experts} x {feed_forward.units}"
        case _:
            assert_never(feed_forward)
