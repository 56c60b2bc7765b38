# SPDX-License-Identifier: Apache-2.0
"""Claims about what is there before the first trial."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search.storage.store import Store
from search.storage.study_state import CALIBRATION, StudyState
from search.study.budget import STEP_SHARES, TimePlan
from search.study.prepare import Prepared, prepare
from search.study.references import measure_references
from search.study.teacher_outputs import needs_outputs
from search.workers.mapped_array import MappedArray
from spaces.domain import Choice, Real
from spaces.recipe import TeacherOutput
from spaces.space import Space
from spaces.study import StudySpec, TeacherSpec
from tests.search.reporters import Heard, Silent
from tests.search.tiny_study import tiny_study, write_teacher
from trainers.modules.embed import embed_tokens

PLAN = TimePlan(budget_s=30.0, graduation_share=0.5, max_students=3)


def prepare_quietly(study: StudySpec, store: Store, *, plan: TimePlan = PLAN) -> Prepared:
    return prepare(study, store=store, plan=plan, reporter=Silent())


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudySpec:
    return tiny_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def first_steps() -> Heard:
    """What the first preparation of the study says."""
    return Heard()


@pytest.fixture(scope="module")
def prepared(study: StudySpec, store: Store, first_steps: Heard) -> Prepared:
    return prepare(study, store=store, plan=PLAN, reporter=first_steps)


@pytest.mark.slow
def test_the_steps_from_which_the_time_to_a_student_is_estimated_are_begun_in_their_order(
    study: StudySpec, store: Store, prepared: Prepared, first_steps: Heard
) -> None:
    measure_references(prepared, state=StudyState.of(store, study.name), reporter=first_steps)
    begun = [next((words for words in STEP_SHARES if line.startswith(words)), None) for line in first_steps.lines]
    assert list(dict.fromkeys(filter(None, begun))) == list(STEP_SHARES)


@pytest.mark.parametrize(
    ("domains", "fixed", "expected"),
    [
        ({}, {}, False),
        ({}, {"hidden": 0.0}, False),
        ({}, {"hidden": 0.5}, True),
        ({"hidden": Real(0.0, 1.0)}, {}, True),
        ({"hidden": Choice((0.0,))}, {}, False),
        ({"hidden": Choice((0.0, 0.1))}, {}, True),
        ({"query_key": Real(0.0, 1.0)}, {}, False),
    ],
)
def test_an_output_may_be_compared_if_some_recipe_of_the_space_weighs_its_loss(
    study: StudySpec, domains: dict, fixed: dict, expected: bool
) -> None:
    changed = replace(study, space=Space(domains=domains, fixed=fixed), initial_points=())
    assert needs_outputs(changed, TeacherOutput.HIDDEN) is expected


@pytest.mark.slow
def test_targets_are_the_teachers_outputs_of_the_training_text(prepared: Prepared) -> None:
    data, teacher = prepared.data, prepared.teacher.student()
    vectors = embed_tokens(teacher, data.token_ids, data.offsets)
    cosines = (vectors * data.targets.embeddings).sum(1) / (
        np.linalg.norm(vectors, axis=1) * np.linalg.norm(data.targets.embeddings.astype(np.float32), axis=1)
    )
    assert cosines.min() > 0.999  # bfloat16
    held_out = embed_tokens(teacher, data.held_out_token_ids, data.held_out_offsets)
    np.testing.assert_allclose(data.held_out_embeddings, held_out, atol=1e-5)
    assert data.targets.queries is None and data.targets.hidden is None


@pytest.mark.slow
def test_arrays_are_of_the_plain_type_that_ray_shares_without_copies(prepared: Prepared) -> None:
    data = prepared.data
    arrays = [data.token_ids, data.offsets, data.held_out_token_ids, data.held_out_offsets, data.held_out_embeddings]
    assert {type(array) for array in [*arrays, data.targets.embeddings]} == {np.ndarray}


@pytest.mark.slow
def test_a_second_preparation_reads_what_the_first_one_left(study: StudySpec, store: Store, prepared: Prepared) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.cache.rglob("*") if path.is_file()}
    start = time.monotonic()
    heard = Heard()
    again = prepare(study, store=store, plan=PLAN, reporter=heard)
    assert time.monotonic() - start < 3.0
    assert not [line for line in heard.lines if "ranking" in line or "training the static table" in line]
    assert again.inheritance.layers == prepared.inheritance.layers
    assert {path: path.stat().st_mtime_ns for path in store.cache.rglob("*") if path.is_file()} == before
    assert f"{study.corpus.sources[0].source}: 600 texts, dropped: none" in heard.lines
    assert again.calibration == prepared.calibration
    np.testing.assert_array_equal(again.data.targets.embeddings, prepared.data.targets.embeddings)
    assert again.inheritance.static_table is not None and prepared.inheritance.static_table is not None
    np.testing.assert_array_equal(again.inheritance.static_table, prepared.inheritance.static_table)


@pytest.mark.slow
def test_a_smaller_budget_later_does_not_shrink_the_text(study: StudySpec, store: Store, prepared: Prepared) -> None:
    assert prepare_quietly(study, store, plan=replace(PLAN, budget_s=1.0)).n_sentences == prepared.n_sentences


@pytest.mark.slow
def test_relations_are_cached_if_a_recipe_may_use_them_and_travel_as_paths(study: StudySpec, store: Store) -> None:
    space = replace(study.space, fixed={**study.space.fixed, "value_value": 0.1})
    prepared = prepare_quietly(replace(study, name="relations", space=space), store)
    values = prepared.data.targets.values
    assert isinstance(values, MappedArray)
    assert values.shape == (len(prepared.data.token_ids), 32)


@pytest.mark.slow
def test_two_teachers_are_averaged_by_weight(study: StudySpec, store: Store, tmp_path: Path) -> None:
    write_teacher(tmp_path / "second", seed=1)
    second = TeacherSpec(source=str(tmp_path / "second"), weight=3.0)
    both = replace(study, name="both", teachers=(*study.teachers, second))
    prepared = prepare_quietly(both, store)
    data = prepared.data
    units = []
    for teacher in prepared.teachers:
        vectors = embed_tokens(teacher.student(), data.held_out_token_ids, data.held_out_offsets)
        units.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    mean = units[0] + 3.0 * units[1]
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(data.held_out_embeddings, expected, atol=1e-5)
    assert prepared.teacher_name == "teacher + second"


@pytest.mark.slow
def test_the_calibration_outlives_the_cache(prepared: Prepared, study: StudySpec, store: Store) -> None:
    assert StudyState.of(store, study.name).read(CALIBRATION) == prepared.calibration
