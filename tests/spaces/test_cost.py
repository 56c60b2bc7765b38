# SPDX-License-Identifier: Apache-2.0
"""The counts against the tensors of a student's folder and against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from runtime.folder import expected_tensors
from spaces.cost import cost
from spaces.student import Dense, EncoderSpec, Projection, StaticSpec, StudentSpec, Switch

BERT_BASE = StudentSpec(
    vocabulary_size=30_522,
    output_dim=768,
    encoder=EncoderSpec(
        n_layers=12, width=768, n_heads=12, head_width=64, feed_forward=Dense(units=3_072), max_tokens=512
    ),
)

with_encoder = st.from_type(EncoderSpec).map(
    lambda encoder: StudentSpec(vocabulary_size=99, output_dim=24, encoder=replace(encoder, projection=Projection.TANH))
)


@given(spec=st.from_type(StudentSpec))
def test_parameters_and_bytes_are_those_of_the_folder(spec: StudentSpec) -> None:
    n_parameters = sum(math.prod(shape) for shape in expected_tensors(spec).values())
    assert cost(spec).n_parameters == n_parameters
    assert cost(spec).n_bytes == 4 * n_parameters


@pytest.mark.parametrize("projection", [None, Projection.TANH])
@pytest.mark.parametrize("feed_forward", [Dense(units=32), Switch(n_experts=3, units=16)])
@pytest.mark.parametrize("embedding_dim", [None, 4])
def test_parameters_are_those_of_the_built_student(
    projection: Projection | None, feed_forward: Dense | Switch, embedding_dim: int | None
) -> None:
    build = pytest.importorskip("trainers.modules.build").build
    spec = StudentSpec(
        vocabulary_size=50,
        output_dim=16,
        encoder=EncoderSpec(
            n_layers=2,
            width=16,
            n_heads=2,
            head_width=8,
            feed_forward=feed_forward,
            max_tokens=8,
            embedding_dim=embedding_dim,
            projection=projection,
        ),
        static=StaticSpec(embedding_dim=embedding_dim),
    )
    assert cost(spec).n_parameters == sum(parameter.numel() for parameter in build(spec, seed=0).parameters())


def test_bert_base_has_its_published_parameters_but_token_types_and_pooler() -> None:
    assert cost(BERT_BASE).n_parameters == 109_482_240 - 2 * 768 - (768 * 768 + 768)


def test_flops_of_bert_base_equal_the_closed_form() -> None:
    n_tokens, width = 128, 768
    per_layer = 2 * n_tokens * (4 * width**2 + 2 * width * 4 * width) + 2 * 2 * n_tokens**2 * width
    assert cost(BERT_BASE, n_tokens=n_tokens).flops == 12 * per_layer


@given(spec=st.from_type(StudentSpec), batch_size=st.integers(1, 9), n_tokens=st.integers(1, 80))
def test_flops_grow_in_proportion_to_the_batch(spec: StudentSpec, batch_size: int, n_tokens: int) -> None:
    one = cost(spec, n_tokens=n_tokens)
    many = cost(spec, batch_size=batch_size, n_tokens=n_tokens)
    assert many.flops == batch_size * one.flops
    assert (many.n_parameters, many.n_active_parameters) == (one.n_parameters, one.n_active_parameters)


@given(spec=st.from_type(StudentSpec), n_tokens=st.integers(1, 80))
def test_active_parameters_are_some_of_all_and_grow_with_the_sentence(spec: StudentSpec, n_tokens: int) -> None:
    shorter, longer = cost(spec, n_tokens=n_tokens), cost(spec, n_tokens=n_tokens + 1)
    assert 0 < shorter.n_active_parameters <= longer.n_active_parameters <= longer.n_parameters
    assert shorter.flops <= longer.flops


@given(spec=with_encoder, sparsity=st.floats(0, 0.95))
def test_sparsity_removes_exactly_the_zero_blocks(spec: StudentSpec, sparsity: float) -> None:
    assert spec.encoder is not None
    assume(spec.encoder.sparsity > 0)
    dense = replace(spec, encoder=replace(spec.encoder, sparsity=0.0))
    sparse = replace(spec, encoder=replace(spec.encoder, sparsity=sparsity))
    zeros = sum(
        round(sparsity * (n_outputs * n_inputs // 64)) * 64 for _, n_outputs, n_inputs in spec.encoder.matrix_shapes()
    )
    n_layers = spec.encoder.n_layers
    assert cost(sparse).n_parameters == cost(dense).n_parameters
    assert cost(dense).n_active_parameters - cost(sparse).n_active_parameters == n_layers * zeros
    n_tokens = min(32, spec.encoder.max_tokens)
    assert cost(dense).flops - cost(sparse).flops == n_layers * zeros * 2 * n_tokens


@given(spec=with_encoder, n_experts=st.integers(2, 9))
def test_a_switch_layer_computes_one_expert_and_its_router(spec: StudentSpec, n_experts: int) -> None:
    assert spec.encoder is not None
    encoder, units = spec.encoder, spec.encoder.feed_forward.units
    dense = cost(replace(spec, encoder=replace(encoder, feed_forward=Dense(units=units))))
    switch = cost(replace(spec, encoder=replace(encoder, feed_forward=Switch(n_experts=n_experts, units=units))))
    router = encoder.n_layers * n_experts * encoder.width
    assert switch.n_active_parameters - dense.n_active_parameters == router
    assert switch.flops - dense.flops == 2 * min(32, encoder.max_tokens) * router
    expert = 2 * units * encoder.width + units + encoder.width
    assert switch.n_parameters - dense.n_parameters == router + encoder.n_layers * (n_experts - 1) * expert


def test_sentences_longer_than_the_position_table_cost_as_if_cut() -> None:
    assert cost(BERT_BASE, n_tokens=600) == cost(BERT_BASE, n_tokens=512)


def test_a_static_student_of_full_rows_multiplies_nothing() -> None:
    static = StudentSpec(vocabulary_size=100, output_dim=8, static=StaticSpec())
    assert cost(static, n_tokens=5).flops == 0
    assert cost(static, n_tokens=5).n_active_parameters == 5 * 8


@pytest.mark.parametrize(("batch_size", "n_tokens"), [(0, 1), (1, 0), (-1, 1), (True, 1), (1, 1.5)])
def test_impossible_batches_are_refused(batch_size: int, n_tokens: int) -> None:
    with pytest.raises(ValueError, match="positive integer"):
        cost(BERT_BASE, batch_size=batch_size, n_tokens=n_tokens)
