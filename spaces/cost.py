# SPDX-License-Identifier: Apache-2.0
"""Parameters, active parameters, operations and bytes of a student, computed from its spec.

The counts follow the tensors of a student's folder one by one, so they equal those of the built student.
"""

from __future__ import annotations

from dataclasses import dataclass

from spaces.student import EncoderSpec, StudentSpec, Switch, n_kept_weights

_FLOAT_BYTES = 4  # students are kept in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of a student for one batch size and sentence length."""

    n_parameters: int
    """Number of elements of all tensors, zeros included."""
    n_active_parameters: int
    """Most elements that one sentence of the length can read: a row of each token table for every token, the rows of
    its positions, the kept blocks of sparse matrices, the router and one expert of Switch layers, and all the rest."""
    flops: int
    """Operations of all matrix products for the batch, 2 for a multiplication with its addition."""
    n_bytes: int
    """Bytes of all tensors in float32; zeros are stored like other numbers."""


def cost(spec: StudentSpec, *, batch_size: int = 1, n_tokens: int = 32) -> Cost:
    """The cost of a student for `batch_size` sentences of `n_tokens` tokens each (special tokens included).

    Sentences longer than the student's position table are cut to it, as its tokenizer does. Left out of `flops`, as is
    usual: look-ups, sums, norms, softmax and activations.
    """
    for name, value in (("batch_size", batch_size), ("n_tokens", n_tokens)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}; change it")
    n_tokens = n_tokens if spec.max_tokens is None else min(n_tokens, spec.max_tokens)
    n_parameters = n_active = n_products = 0  # products: multiplications with their addition
    rows = min(n_tokens, spec.vocabulary_size)
    if spec.static is not None:
        columns = spec.static.embedding_dim or spec.output_dim
        n_parameters += spec.vocabulary_size * columns
        n_active += rows * columns
        if spec.static.embedding_dim is not None:
            expansion = columns * spec.output_dim
            n_parameters += expansion
            n_active += expansion
            n_products += batch_size * expansion  # after averaging: once a sentence
    if spec.encoder is not None:
        encoder = spec.encoder
        columns = encoder.embedding_dim or encoder.width
        n_parameters += spec.vocabulary_size * columns + (encoder.max_tokens + 2) * encoder.width
        n_active += rows * columns + (n_tokens + 2) * encoder.width
        if encoder.embedding_dim is not None:
            expansion = columns * encoder.width
            n_parameters += expansion
            n_active += expansion
            n_products += batch_size * n_tokens * expansion
        layer_parameters, layer_active, layer_products = _layer(encoder, batch_size, n_tokens)
        n_parameters += encoder.n_layers * layer_parameters
        n_active += encoder.n_layers * layer_active
        n_products += encoder.n_layers * layer_products
        if encoder.projection is not None:
            projection = encoder.width * spec.output_dim
            n_parameters += projection + spec.output_dim
            n_active += projection + spec.output_dim
            n_products += batch_size * projection
    return Cost(
        n_parameters=n_parameters,
        n_active_parameters=n_active,
        flops=2 * n_products,
        n_bytes=_FLOAT_BYTES * n_parameters,
    )


def _layer(encoder: EncoderSpec, batch_size: int, n_tokens: int) -> tuple[int, int, int]:
    """(parameters, active parameters, products) of one layer."""
    block = encoder.feed_forward
    n_experts = block.n_experts if isinstance(block, Switch) else 1
    all_tokens = batch_size * n_tokens
    n_parameters = n_active = 4 * encoder.width  # two norms: weight and bias
    n_products = 2 * batch_size * n_tokens**2 * encoder.attention_width  # scores, and the weighted sum of values
    for name, n_outputs, n_inputs in encoder.matrix_shapes():
        copies = n_experts if name.startswith("feed_forward") else 1
        kept = n_kept_weights(n_outputs, n_inputs, encoder.sparsity)
        n_parameters += copies * (n_outputs * n_inputs + n_outputs)
        n_active += kept + n_outputs
        n_products += all_tokens * kept
    if isinstance(block, Switch):
        router = block.n_experts * encoder.width
        n_parameters += router
        n_active += router
        n_products += all_tokens * router
    return n_parameters, n_active, n_products
