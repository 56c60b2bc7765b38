# SPDX-License-Identifier: Apache-2.0
"""Claims about the references of a study."""

from __future__ import annotations

import pytest

from runtime.engine import Engine
from runtime.folder import read_folder
from search.records.front import MeasuredStudent
from search.storage.reference_students import STATIC_TABLE, TEACHER, reference_student, teacher_name_on
from search.storage.store import Store
from search.storage.study_state import StudyState
from search.study.budget import TimePlan
from search.study.prepare import Prepared, prepare
from search.study.reference_students import write_reference_students
from search.study.references import fidelity_on, measure_references, reference_specs
from spaces.profile import Runtime
from spaces.student import Dense, EncoderSpec, StudentSpec
from tests.search.reporters import Silent
from tests.search.tiny_study import tiny_study
from trainers.measure.backends.runtimes import backend_of
from trainers.measure.fidelity import measure_fidelity
from trainers.modules.build import student_from_weights
from trainers.modules.device import CPU
from trainers.modules.embed import embed_tokens
from trainers.modules.student import Student
from trainers.teacher.load import Teacher


@pytest.mark.parametrize("runtime", list(Runtime))
def test_references_are_the_teacher_its_first_layers_and_the_table(runtime: Runtime) -> None:
    encoder = EncoderSpec(n_layers=4, width=8, n_heads=2, head_width=4, feed_forward=Dense(units=8), max_tokens=8)
    specs = reference_specs(StudentSpec(vocabulary_size=9, output_dim=8, encoder=encoder), runtime)
    assert [(name, spec.n_layers) for name, spec in specs.items()] == [
        ("teacher", 4),
        *([("teacher-on-engine", 4)] if runtime is Runtime.ENGINE else []),
        ("teacher-first-3-layers", 3),
        ("teacher-first-2-layers", 2),
        ("teacher-first-1-layer", 1),
        ("static-table", 0),
    ]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("study")
    plan = TimePlan(budget_s=30.0, graduation_share=0.5, max_students=3)
    return prepare(tiny_study(folder), store=Store(folder / "store"), plan=plan, reporter=Silent())


def first_layers(teacher: Teacher, n_layers: int) -> Student:
    """The teacher cut to its first layers, untrained."""
    student = teacher.student(device=CPU)
    student.layers = student.layers[:n_layers]
    return student


@pytest.mark.slow
def test_fidelities_are_those_of_the_students_that_the_names_say(
    prepared: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = StudyState(tmp_path_factory.mktemp("facts"))
    found = {one.name: one for one in measure_references(prepared, state=state, reporter=Silent())}
    data, table = prepared.data, prepared.inheritance.static_table
    assert table is not None
    students = {
        TEACHER: prepared.teacher.student(),
        "teacher-first-1-layer": first_layers(prepared.teacher, 1),
        STATIC_TABLE: student_from_weights(found[STATIC_TABLE].spec, {"static.tokens": table}),
    }
    assert set(found) == {*students, teacher_name_on(Runtime.ENGINE)}
    on_engine = Engine(prepared.teacher.spec, prepared.teacher.weights)
    vectors = on_engine.embed(data.held_out_token_ids, data.held_out_offsets)
    expected = measure_fidelity(vectors, data.held_out_embeddings)
    assert found[teacher_name_on(Runtime.ENGINE)].fidelity == expected
    assert 0.999 < expected.cosine < 1.0
    for name, student in students.items():
        vectors = embed_tokens(student, data.held_out_token_ids, data.held_out_offsets)
        expected = measure_fidelity(vectors, data.held_out_embeddings)
        assert found[name].fidelity.cosine == pytest.approx(expected.cosine, abs=1e-5)
        assert found[name].fidelity.spearman == pytest.approx(expected.spearman, abs=1e-2)
    assert found[TEACHER].fidelity.cosine == pytest.approx(1.0, abs=1e-6)
    again = {one.name: one for one in measure_references(prepared, state=state, reporter=Silent())}
    assert again == found


@pytest.mark.slow
def test_the_folder_of_a_reference_is_what_was_measured(
    prepared: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("study")
    found = measure_references(prepared, state=StudyState(folder), reporter=Silent())
    measured = [
        MeasuredStudent.measured(
            one.name,
            one.spec,
            latency_ms=1.0 + i,
            latency_interval_ms=(1.0, 9.0),
            teacher_latency_ms=1.0,
            fidelity=one.fidelity,
        )
        for i, one in enumerate(found)
    ]
    profile = prepared.calibration.profile
    document = {"study": "tiny", "tokenizer": {"max_tokens": 16}}
    for _ in range(2):  # the second command finds the folders of the first
        write_reference_students(prepared, measured, profile=profile, folder=folder, document=document)
        for entry in measured[1:]:
            path = reference_student(folder, entry.name)
            assert path is not None
            student = read_folder(path)
            backend = backend_of(Runtime.ENGINE if entry.name == "teacher-on-engine" else Runtime.TORCH)
            runnable = backend.build(student.spec, student.weights, n_threads=1)
            assert fidelity_on(runnable, prepared.data).cosine == pytest.approx(entry.fidelity.cosine, abs=1e-5)
            assert student.max_tokens == 16
            assert student.document["trial"] == entry.name
            assert student.document["measurements"]["latency_ms"] == entry.latency_ms
            assert student.document["measurements"]["fidelity"] == entry.fidelity.to_json()
