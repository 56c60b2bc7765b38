# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.optimiser.pareto import dominates
from search.records.front import Front, MeasuredStudent
from search.records.objective import COSINE
from spaces.cost import cost
from spaces.profile import LatencyProfile, Runtime
from spaces.student import Dense, EncoderSpec, StaticSpec, StudentSpec
from trainers.measure.fidelity import Fidelity

SPEC = StudentSpec(
    vocabulary_size=50,
    output_dim=8,
    encoder=EncoderSpec(n_layers=2, width=8, n_heads=2, head_width=4, feed_forward=Dense(units=16), max_tokens=12),
    static=StaticSpec(),
)
ENTRY_KEYS = {
    "name",
    "version",
    "aliases",
    "n_layers",
    "spec",
    "latency_ms",
    "latency_interval_ms",
    "speedup",
    "n_parameters",
    "n_bytes",
    "fidelity",
}
FIDELITY_KEYS = {
    "cosine",
    "cosine_p5",
    "cosine_centred",
    "spearman",
    "overlap_at_1",
    "overlap_at_10",
    "constant_baseline",
}


def entry(name: str = "trial-0001", latency_ms: float = 2.0, cosine: float = 0.9) -> MeasuredStudent:
    fidelity = Fidelity(
        cosine=cosine,
        cosine_p5=0.7,
        cosine_centred=0.8,
        spearman=0.85,
        overlap_at_1=0.6,
        overlap_at_10=0.65,
        constant_baseline=0.3,
    )
    return MeasuredStudent.measured(
        name,
        SPEC,
        latency_ms=latency_ms,
        latency_interval_ms=(0.9 * latency_ms, 1.1 * latency_ms),
        teacher_latency_ms=8.0,
        fidelity=fidelity,
    )


def document(*students: MeasuredStudent, references: tuple[MeasuredStudent, ...] = ()) -> Front:
    return Front.of(
        "study", teacher="teacher", profile=LatencyProfile(), objective=COSINE, references=references, students=students
    )


def test_an_entry_counts_what_its_spec_says() -> None:
    measured = entry(latency_ms=2.0)
    assert measured.n_layers == 2
    assert measured.n_parameters == cost(SPEC).n_parameters
    assert measured.n_bytes == 4 * measured.n_parameters
    assert measured.speedup == 4.0
    assert StudentSpec.from_json(dict(measured.spec)) == SPEC


def test_the_json_interface_has_exactly_its_keys() -> None:
    front = document(entry(), references=(entry("teacher", 8.0, 1.0),)).to_json()
    assert list(front) == ["study", "teacher", "profile", "references", "students"]
    for shown in (*front["references"], *front["students"]):
        assert set(shown) == ENTRY_KEYS
        assert set(shown["fidelity"]) == FIDELITY_KEYS
    assert set(entry().to_json(with_uri=True)) == ENTRY_KEYS | {"uri"}
    assert json.loads(json.dumps(front, allow_nan=False)) == front


def test_records_keep_every_field() -> None:
    registered = entry().changed(
        version="3", aliases=("balanced",), dominated_by="static-table", on_front=False, uri="models:/study/3"
    )
    assert MeasuredStudent.from_record(json.loads(json.dumps(registered.to_record()))) == registered
    worse = entry("trial-0002", 3.0, 0.5)
    front = Front(
        study="study",
        teacher="a + b",
        profile=LatencyProfile(runtime=Runtime.NUMPY, batch_size=8),
        objective=COSINE,
        references=(entry("teacher"),),
        students=(registered,),
        dominated=(worse,),
    )
    assert Front.from_record(json.loads(json.dumps(front.to_record()))) == front


@pytest.mark.parametrize("record", [{}, {"name": "x"}, {**entry().to_record(), "colour": "red"}])
def test_what_is_no_record_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not an entry"):
        MeasuredStudent.from_record(record)
    with pytest.raises(ValueError, match="not a front"):
        Front.from_record(record)


def test_students_stand_by_rising_latency() -> None:
    front = document(entry("c", 3.0, 0.95), entry("a", 1.0, 0.8), entry("b", 2.0, 0.9))
    assert [student.name for student in front.students] == ["a", "b", "c"]


def test_a_measurement_that_is_not_finite_is_left_out() -> None:
    front = document(entry("good"), entry("nan", 1.0, math.nan), entry("slow", math.inf, 0.99))
    assert [student.name for student in front.students] == ["good"]


points = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=6)


@given(points, points)
def test_the_front_is_what_neither_students_nor_references_dominate(
    students: list[tuple[int, int]], references: list[tuple[int, int]]
) -> None:
    measured = [entry(f"s{i}", float(latency), cosine / 10) for i, (latency, cosine) in enumerate(students)]
    known = tuple(entry(f"r{i}", float(latency), cosine / 10) for i, (latency, cosine) in enumerate(references))
    front = document(*measured, references=known)
    best = [
        one for one in measured if not any(dominates(front.point_of(other), front.point_of(one)) for other in measured)
    ]
    beaten = [one for one in best if any(dominates(front.point_of(other), front.point_of(one)) for other in known)]
    assert {one.name for one in front.students} == {one.name for one in best} - {one.name for one in beaten}
    assert {one.name for one in front.dominated} == {one.name for one in beaten}
    by_name = {one.name: one for one in known}
    for one in front.dominated:
        assert one.dominated_by is not None
        assert dominates(front.point_of(by_name[one.dominated_by]), front.point_of(one))
        assert not one.on_front
