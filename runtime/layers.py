# SPDX-License-Identifier: Apache-2.0
"""The parts of a student's forward pass as NumPy functions of plain float32 arrays.

Matrices are [outputs, inputs]. Tokens of a batch are flattened to one axis wherever sentences do not matter, so
that each product is one call of BLAS.
"""

from __future__ import annotations

import math
from functools import cache
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from spaces.student import Activation

Array = NDArray[np.float32]
BooleanArray = NDArray[np.bool_]
TokenIds = NDArray[np.integer]

GELU_STEPS = 2048  # table steps per unit: linear interpolation errs by max|g''| / (8 * 2048^2) = 2.4e-8
GELU_RANGE = 6.0  # beyond, x * (1 - Phi(x)) < 6e-9
SMALLEST_NORM = 1e-12  # torch.nn.functional.normalize's floor
MASKED = float(np.finfo(np.float32).min)


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """`x @ weight.T + bias`; x [n, inputs], weight [outputs, inputs], bias [outputs] -> [n, outputs]."""
    y: Array = x @ weight.T
    if bias is not None:
        y += bias
    return y


def layer_norm(x: Array, weight: Array, bias: Array, *, epsilon: float) -> Array:
    """x [n, width], each row scaled to mean 0 and variance 1, then by weight and bias [width]."""
    y: Array = x - x.mean(axis=-1, keepdims=True)
    variance = np.einsum("nh,nh->n", y, y)[:, None] / np.float32(x.shape[-1])
    y /= np.sqrt(variance + np.float32(epsilon))
    y *= weight
    y += bias
    return y


def softmax(x: Array) -> Array:
    """Softmax over the last axis."""
    y: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    y /= y.sum(axis=-1, keepdims=True)
    return y


@cache
def _gelu_table() -> tuple[Array, Array]:
    """g(a) = a * (1 - Phi(a)) at every step of [0, GELU_RANGE], and its increments."""
    grid = np.arange(int(GELU_RANGE * GELU_STEPS) + 2) / GELU_STEPS
    values = np.array([0.5 * a * math.erfc(a / math.sqrt(2.0)) for a in grid])
    return values[:-1].astype(np.float32), np.diff(values).astype(np.float32)


def gelu(x: Array) -> Array:
    """x * Phi(x), the exact (erf) form, to float32 rounding: gelu(x) = max(x, 0) - g(|x|), see `_gelu_table`.

    g(a) = a * (1 - Phi(a)) is interpolated linearly between exact values; its second derivative is at most
    0.798 (at 0), so the error is below 2.4e-8 before rounding. NumPy has no erf.
    """
    values, increments = _gelu_table()
    position = np.abs(x)
    np.minimum(position, np.float32(GELU_RANGE), out=position)
    position *= np.float32(GELU_STEPS)  # a power of two: exact, so the fraction below is exact too
    index = position.astype(np.int32)
    position -= index
    position *= increments.take(index)
    position += values.take(index)
    y: Array = np.maximum(x, np.float32(0.0))
    y -= position
    return y


def gelu_tanh(x: Array) -> Array:
    """The tanh approximation of GELU (Hendrycks & Gimpel 2016)."""
    inner = (x + x * x * x * np.float32(0.044715)) * np.float32(math.sqrt(2.0 / math.pi))
    return (np.tanh(inner) + np.float32(1.0)) * x * np.float32(0.5)


def activate(x: Array, activation: Activation) -> Array:
    """x with the activation function applied to every element."""
    match activation:
        case Activation.GELU:
            return gelu(x)
        case Activation.GELU_TANH:
            return gelu_tanh(x)
        case Activation.RELU:
            return np.maximum(x, np.float32(0.0))
        case _:
            assert_never(activation)


def attention(qkv: Array, mask: BooleanArray | None, *, n_heads: int) -> Array:
    """Multi-head self-attention of sentences.

    qkv [batch, tokens, 3 * heads * head_width] (all queries, all keys, all values), mask [batch, tokens] or None
    (every token counts) -> [batch, tokens, heads * head_width].
    """
    batch, n_tokens, triple = qkv.shape
    head_width = triple // 3 // n_heads
    heads = qkv.reshape(batch, n_tokens, 3, n_heads, head_width).transpose(2, 0, 3, 1, 4)
    queries, keys, values = heads[0], heads[1], heads[2]
    scores = queries @ keys.swapaxes(-1, -2)
    scores *= np.float32(1.0 / math.sqrt(head_width))
    if mask is not None:
        np.copyto(scores, np.float32(MASKED), where=~mask[:, None, None, :])
    context = softmax(scores) @ values
    merged: Array = context.transpose(0, 2, 1, 3).reshape(batch, n_tokens, n_heads * head_width)
    return merged


def switch(
    x: Array,
    router: Array,
    *,
    input_weight: Array,
    input_bias: Array,
    output_weight: Array,
    output_bias: Array,
    activation: Activation,
) -> Array:
    """Top-1 mixture of experts without a capacity limit (Fedus et al. 2021).

    x [n, width], router [experts, width], weights [experts, outputs, inputs], biases [experts, outputs] -> [n, width]:
    each token's expert output times the expert's router probability.
    """
    probabilities = softmax(linear(x, router, None))
    chosen = probabilities.argmax(axis=-1)
    y = np.empty_like(x)
    for expert in np.unique(chosen):
        rows = np.flatnonzero(chosen == expert)
        hidden = activate(linear(x[rows], input_weight[expert], input_bias[expert]), activation)
        y[rows] = linear(hidden, output_weight[expert], output_bias[expert])
    y *= probabilities.max(axis=-1, keepdims=True)
    return y


def masked_mean(x: Array, mask: BooleanArray | None) -> Array:
    """Mean over the tokens that count; x [batch, tokens, width], mask [batch, tokens] or None -> [batch, width]."""
    mean: Array
    if mask is None:
        mean = x.mean(axis=1)
        return mean
    weights = mask.astype(np.float32)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.float32(1.0))
    mean = np.matmul(weights[:, None, :], x)[:, 0]
    return mean


def normalise(x: Array) -> Array:
    """Rows of x [n, width] scaled to length 1; a zero row stays zero."""
    norms = np.linalg.norm(x, axis=-1, keepdims=True)
    scaled: Array = x / np.maximum(norms, np.float32(SMALLEST_NORM))
    return scaled
