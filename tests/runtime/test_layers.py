# SPDX-License-Identifier: Apache-2.0
"""The NumPy layers against closed forms and torch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from runtime.layers import attention, gelu, gelu_tanh, layer_norm, masked_mean, normalise, softmax, switch
from spaces.student import Activation


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def test_gelu_is_exact_to_float32_rounding() -> None:
    x = np.concatenate([np.linspace(-12, 12, 100_001), [0.0, -0.0, 1e-30, 1e30, -1e30]]).astype(np.float32)
    exact = np.array([0.5 * v * math.erfc(-v / math.sqrt(2.0)) for v in x.astype(np.float64)])
    error = np.abs(gelu(x) - exact)
    assert (error / np.maximum(1.0, np.abs(exact))).max() < 1e-7


@given(st.floats(-1e6, 1e6, width=32))
def test_gelu_of_x_minus_gelu_of_minus_x_is_x(x: float) -> None:
    pair = gelu(np.array([x, -x], dtype=np.float32))
    assert pair[0] - pair[1] == pytest.approx(x, rel=1e-6, abs=1e-7)


def test_gelu_tanh_equals_torch() -> None:
    x = random(1000, scale=3.0)
    expected = functional.gelu(torch.from_numpy(x), approximate="tanh").numpy()
    np.testing.assert_allclose(gelu_tanh(x), expected, atol=1e-6)


def test_layer_norm_equals_torch() -> None:
    x, weight, bias = random(5, 12, scale=4.0) + 3.0, random(12, seed=1), random(12, seed=2)
    tensors = [torch.from_numpy(a) for a in (x, weight, bias)]
    expected = functional.layer_norm(tensors[0], (12,), tensors[1], tensors[2], eps=1e-12).numpy()
    np.testing.assert_allclose(layer_norm(x, weight, bias, epsilon=1e-12), expected, atol=2e-6)


def test_softmax_stands_large_scores_and_sums_to_one() -> None:
    x = np.array([[1e4, 1e4, -1e4], [0.0, math.log(3.0), -np.inf]], dtype=np.float32)
    np.testing.assert_allclose(softmax(x), [[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]], atol=1e-7)


def test_attention_equals_torch_where_tokens_count() -> None:
    qkv = random(3, 5, 3 * 8)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], dtype=bool)
    q, k, v = (torch.from_numpy(part.reshape(3, 5, 2, 4)).transpose(1, 2) for part in np.split(qkv, 3, axis=-1))
    expected = functional.scaled_dot_product_attention(q, k, v, attn_mask=torch.from_numpy(mask)[:, None, None, :])
    expected = expected.transpose(1, 2).reshape(3, 5, 8).numpy()
    np.testing.assert_allclose(attention(qkv, mask, n_heads=2), expected, atol=1e-6)


def test_switch_with_equal_experts_is_that_expert_times_its_gate() -> None:
    x, router = random(7, 4), random(3, 4, seed=1)
    one_input, one_output = random(6, 4, seed=2), random(4, 6, seed=3)
    y = switch(
        x,
        router,
        input_weight=np.stack([one_input] * 3),
        input_bias=np.ones((3, 6), np.float32),
        output_weight=np.stack([one_output] * 3),
        output_bias=np.zeros((3, 4), np.float32),
        activation=Activation.RELU,
    )
    logits = x @ router.T
    gate = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).max(axis=1, keepdims=True)
    expected = gate * (np.maximum(x @ one_input.T + 1.0, 0.0) @ one_output.T)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_masked_mean_ignores_padding_and_survives_an_empty_sentence() -> None:
    x = random(2, 3, 4)
    mask = np.array([[True, True, False], [False, False, False]])
    mean = masked_mean(x, mask)
    np.testing.assert_allclose(mean[0], (x[0, 0] + x[0, 1]) / 2, atol=1e-7)
    np.testing.assert_array_equal(mean[1], 0.0)


def test_normalise_gives_unit_rows_and_keeps_zero_rows() -> None:
    y = normalise(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(y, [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)
