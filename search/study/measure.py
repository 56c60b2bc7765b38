# SPDX-License-Identifier: Apache-2.0
"""The final measurement: graduates and references together, on the idle machine, in turns.

Fidelity was measured when a graduation ended, in its precision: in bfloat16 it differs from float32's by less than
0.0001. Students of the engine are measured again, in its eight bits. What an earlier command measured is used again
only if it measured exactly these students and references.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from runtime.engine import Engine
from runtime.folder import read_folder, student_digest
from runtime.loading import load_exact
from search.console.progress import Reporter
from search.graduation.graduate import Graduate
from search.records.front import MeasuredStudent
from search.storage.atomic import read_json, write_json
from search.storage.study_state import StudyState
from search.study.prepare import Prepared
from search.study.references import TEACHER, Reference, fidelity_on_engine
from spaces.profile import LatencyProfile, Runtime
from trainers.distil.checkpoint import load_student
from trainers.measure.calibration import machine_name
from trainers.measure.fidelity import Fidelity
from trainers.measure.latency import Latency, Measurable, measure_latencies
from trainers.measure.onnx_student import OnnxStudent
from trainers.measure.random_student import random_student

_FACT = "measurement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that stands on a study's page."""

    references: tuple[MeasuredStudent, ...]
    """The teacher first."""
    students: tuple[MeasuredStudent, ...]
    """The graduates, by trial number."""


def measure_all(
    prepared: Prepared,
    references: Sequence[Reference],
    graduates: Sequence[Graduate],
    *,
    profile: LatencyProfile,
    seconds: float,
    state: StudyState,
    reporter: Reporter,
) -> Measured:
    """Measures graduates and references; `seconds` are those of the latencies alone."""
    key = _key(prepared, references, graduates, profile)
    known = state.read(_FACT) or {}
    if known.get("key") == key:
        return Measured(
            references=tuple(MeasuredStudent.from_record(entry) for entry in known["references"]),
            students=tuple(MeasuredStudent.from_record(entry) for entry in known["students"]),
        )
    reporter.step(f"measuring the latency of {len(graduates)} students and {len(references)} references")
    runnables = {graduate.record.name: _runnable(graduate.folder, profile) for graduate in graduates}
    latencies = _latencies(references, runnables, profile, seconds=seconds)
    teacher_ms = latencies[TEACHER].median_ms
    students = []
    for graduate in graduates:
        assert graduate.record.spec is not None
        latency = latencies[graduate.record.name]
        students.append(
            MeasuredStudent.measured(
                graduate.record.name,
                graduate.record.spec,
                latency_ms=latency.median_ms,
                latency_interval_ms=latency.interval_ms,
                teacher_latency_ms=teacher_ms,
                fidelity=_fidelity(graduate, runnables[graduate.record.name], prepared),
            )
        )
        _write_down(graduate.folder, students[-1], profile)
    measured = Measured(
        references=tuple(
            MeasuredStudent.measured(
                reference.name,
                reference.spec,
                latency_ms=latencies[reference.name].median_ms,
                latency_interval_ms=latencies[reference.name].interval_ms,
                teacher_latency_ms=teacher_ms,
                fidelity=reference.fidelity,
            )
            for reference in references
        ),
        students=tuple(students),
    )
    record: dict[str, Any] = {"key": key}
    record["references"] = [entry.to_record() for entry in measured.references]
    record["students"] = [entry.to_record() for entry in measured.students]
    state.write(_FACT, record)
    return measured


def _latencies(
    references: Sequence[Reference], runnables: Mapping[str, Measurable], profile: LatencyProfile, *, seconds: float
) -> dict[str, Latency]:
    subjects: dict[str, Measurable] = {reference.name: reference.spec for reference in references}
    if profile.runtime is Runtime.ENGINE:
        subjects[TEACHER] = random_student(references[0].spec, Runtime.TORCH)
    return measure_latencies({**subjects, **runnables}, profile, min_seconds=seconds)


def _fidelity(graduate: Graduate, runnable: Measurable, prepared: Prepared) -> Fidelity:
    return fidelity_on_engine(runnable, prepared.data) if isinstance(runnable, Engine) else graduate.fidelity


def _runnable(folder: Path, profile: LatencyProfile) -> Measurable:
    match profile.runtime:
        case Runtime.TORCH:
            return load_student(folder)
        case Runtime.NUMPY:
            return load_exact(folder)
        case Runtime.ENGINE:
            student = read_folder(folder)
            return Engine(student.spec, student.weights, are_checked=True)
        case Runtime.ONNX:
            student = read_folder(folder)
            return OnnxStudent(student.spec, student.weights, n_threads=profile.n_threads)
        case _:
            assert_never(profile.runtime)


def _write_down(folder: Path, entry: MeasuredStudent, profile: LatencyProfile) -> None:
    """The measurements go into student.json, so that the folder tells them wherever it is copied."""
    path = folder / "student.json"
    document = read_json(path)
    assert document is not None
    measurements = {
        "latency_ms": entry.latency_ms,
        "latency_interval_ms": list(entry.latency_interval_ms),
        "speedup": entry.speedup,
        "profile": profile.to_json(),
        "machine": machine_name(),
        "fidelity": entry.fidelity.to_json(),
    }
    write_json(path, {**document, "measurements": measurements})


def _key(
    prepared: Prepared, references: Sequence[Reference], graduates: Sequence[Graduate], profile: LatencyProfile
) -> str:
    parts = [machine_name(), str(profile.to_json()), *prepared.identity.values()]
    parts += [f"{reference.name} {reference.fidelity}" for reference in references]
    parts += [f"{graduate.record.name} {student_digest(graduate.folder)}" for graduate in graduates]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
