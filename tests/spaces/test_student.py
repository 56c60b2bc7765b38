# SPDX-License-Identifier: Apache-2.0
"""Specs go to JSON and back, and a spec that exists can be built."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.profile import LatencyProfile, Runtime
from spaces.recipe import LOSSES, LossWeights, RecipeSpec, TeacherOutput
from spaces.student import Dense, EncoderSpec, StaticSpec, StudentSpec, Switch, n_kept_weights

ENCODER = EncoderSpec(n_layers=2, width=64, n_heads=4, head_width=16, feed_forward=Dense(units=128), max_tokens=32)
STUDENT = StudentSpec(vocabulary_size=100, output_dim=64, encoder=ENCODER)


@given(spec=st.from_type(StudentSpec))
def test_student_survives_json(spec: StudentSpec) -> None:
    assert StudentSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@given(recipe=st.from_type(RecipeSpec))
def test_recipe_survives_json(recipe: RecipeSpec) -> None:
    assert RecipeSpec.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@given(batch_size=st.integers(1, 99), n_tokens=st.integers(1, 99), runtime=st.sampled_from(Runtime))
def test_profile_survives_json(batch_size: int, n_tokens: int, runtime: Runtime) -> None:
    profile = LatencyProfile(runtime=runtime, batch_size=batch_size, n_tokens=n_tokens)
    assert LatencyProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"n_layers": 0}, "n_layers must be a positive integer"),
        ({"n_layers": 10**9}, "n_layers must be a positive integer up to 1000"),
        ({"width": 65_600}, "width must be a positive integer up to 65536"),
        ({"max_tokens": 2**62}, "max_tokens must be a positive integer up to 16777216"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon must lie in 1.2e-38 to 1, got 0.0"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon must lie in"),
        ({"n_heads": 5, "head_width": 1}, "n_heads must divide the width"),
        ({"head_width": 17}, "heads must fit the width"),
        ({"sparsity": 0.96}, "sparsity must lie in 0 to 0.95"),
        ({"sparsity": float("nan")}, "sparsity must lie in 0 to 0.95"),
        ({"embedding_dim": 64}, "narrower than the width"),
        ({"sparsity": 0.5, "feed_forward": Dense(units=100)}, "feed_forward.input is 100 x 64"),
    ],
)
def test_encoders_that_cannot_be_built_are_refused(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        replace(ENCODER, **change)


def test_students_without_any_path_or_with_a_missing_projection_are_refused() -> None:
    with pytest.raises(ValueError, match="depth 0 is its static path"):
        StudentSpec(vocabulary_size=10, output_dim=8)
    with pytest.raises(ValueError, match="add a linear projection"):
        StudentSpec(vocabulary_size=10, output_dim=8, encoder=ENCODER)
    with pytest.raises(ValueError, match="at least 2 experts"):
        Switch(n_experts=1, units=8)
    with pytest.raises(ValueError, match="n_experts must be a positive integer"):
        Switch(n_experts=2.5, units=8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="capacity_factor must be positive and finite"):
        Switch(n_experts=2, units=8, capacity_factor=float("inf"))
    with pytest.raises(ValueError, match="normalise must be true or false, got 'yes'"):
        replace(STUDENT, normalise="yes")


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"vocabulary_size": 10},
        {**STUDENT.to_json(), "colour": "red"},
        {**STUDENT.to_json(), "encoder": {"n_layers": 1}},
        {**STUDENT.to_json(), "encoder": {**STUDENT.to_json()["encoder"], "feed_forward": {"kind": "sparse"}}},
        {**STUDENT.to_json(), "encoder": {**STUDENT.to_json()["encoder"], "pooling": "max"}},
        {**STUDENT.to_json(), "encoder": 3},
    ],
)
def test_documents_that_are_no_student_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        StudentSpec.from_json(document)


@pytest.mark.parametrize(
    "document", [{"rate": 1}, {"learning_rate": -1}, {"losses": {"cosine": 0}}, {"precision": "int4"}]
)
def test_documents_that_are_no_recipe_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        RecipeSpec.from_json(document)


@pytest.mark.parametrize("document", [{"batch_size": 0}, {"n_threads": True}, {"runtime": "abacus"}, {"cores": 2}])
def test_documents_that_are_no_profile_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        LatencyProfile.from_json(document)


def test_only_the_losses_in_use_compare_what_the_teachers_layers_give() -> None:
    assert LossWeights().compares == set() and not LossWeights().uses_relations
    assert LossWeights(query_key=1).compares == {TeacherOutput.QUERIES, TeacherOutput.KEYS}
    assert LossWeights(value_value=1, hidden=1).compares == {TeacherOutput.VALUES, TeacherOutput.HIDDEN}
    assert LossWeights(query_key=1).uses_relations and LossWeights(value_value=1).uses_relations


def test_every_loss_has_a_weight_and_every_weight_is_of_a_loss() -> None:
    assert [part.name for part in fields(LossWeights)] == list(LOSSES)


@given(rows=st.integers(1, 8), columns=st.integers(1, 8), sparsity=st.floats(0, 0.95))
def test_kept_weights_and_zero_blocks_fill_the_matrix(rows: int, columns: int, sparsity: float) -> None:
    kept = n_kept_weights(16 * rows, 4 * columns, sparsity)
    assert kept % 64 == 0
    assert kept == 64 * (rows * columns - round(sparsity * rows * columns))


def test_depth_and_length_of_a_static_student() -> None:
    static = StudentSpec(vocabulary_size=10, output_dim=8, static=StaticSpec())
    assert (static.n_layers, static.max_tokens) == (0, None)
    assert (STUDENT.n_layers, STUDENT.max_tokens) == (2, 32)
