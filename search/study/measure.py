# SPDX-License-Identifier: Apache-2.0
"""The final measurement: latency of graduates and references, interleaved on the otherwise idle machine.

Fidelity was measured at the end of graduation, in the training precision: bfloat16 differs from float32 by less than
0.0001. For a runtime that is not exact (the engine, 8-bit weights) it is measured again on that runtime. The result of
an earlier command is reused only if `FinalMeasurement.key` is equal: same students, references and runtime build.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.atomic import read_json, write_json
from runtime.folder import read_folder, student_digest
from search.console.progress import Reporter
from search.graduation.graduate import Graduate
from search.records.front import MeasuredStudent
from search.storage.reference_students import TEACHER
from search.storage.study_state import StateFile, StudyState
from search.study.prepare import Prepared
from search.study.references import Reference, fidelity_on
from spaces.profile import LatencyProfile, Runtime
from trainers.measure.backends.backend import Runnable
from trainers.measure.backends.runtimes import backend_of
from trainers.measure.calibration import machine_name
from trainers.measure.latency import Latency, Measurable, measure_latencies
from trainers.measure.random_student import random_student


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalMeasurement:
    """The measured students and references of a study."""

    key: str
    """SHA-256 of what it depends on: machine, runtime, profile, teachers, held-out text, references, students."""
    references: tuple[MeasuredStudent, ...]
    """The teacher first."""
    students: tuple[MeasuredStudent, ...]
    """The graduates, by trial number."""

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `from_json` reads."""
        return {
            "key": self.key,
            "references": [entry.to_record() for entry in self.references],
            "students": [entry.to_record() for entry in self.students],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> FinalMeasurement:
        """The value of an object that `to_json` returned."""
        references, students = (
            tuple(MeasuredStudent.from_record(entry) for entry in document[name]) for name in ("references", "students")
        )
        return cls(key=document["key"], references=references, students=students)


MEASUREMENT: StateFile[FinalMeasurement] = StateFile(
    name="measurement", to_json=FinalMeasurement.to_json, from_json=FinalMeasurement.from_json
)
"""The last final measurement."""


def measure_all(
    prepared: Prepared,
    references: Sequence[Reference],
    graduates: Sequence[Graduate],
    *,
    profile: LatencyProfile,
    seconds: float,
    state: StudyState,
    reporter: Reporter,
) -> FinalMeasurement:
    """The final measurement of graduates and references; `seconds` limits the latencies only. Saved in `state`."""
    key = _measurement_key(prepared, references, graduates, profile)
    known = state.read(MEASUREMENT)
    if known is not None and known.key == key:
        return known
    reporter.step(f"measuring the latency of {len(graduates)} students and {len(references)} references")
    runnables = {graduate.record.name: _runnable(graduate.folder, profile) for graduate in graduates}
    latencies = _measure_latencies(references, runnables, profile, seconds=seconds)
    teacher_ms = latencies[TEACHER].median_ms
    is_exact = backend_of(profile.runtime).is_exact
    students = []
    for graduate in graduates:
        assert graduate.record.spec is not None
        name = graduate.record.name
        latency = latencies[name]
        students.append(
            MeasuredStudent.measured(
                name,
                graduate.record.spec,
                latency_ms=latency.median_ms,
                latency_interval_ms=latency.interval_ms,
                teacher_latency_ms=teacher_ms,
                fidelity=graduate.fidelity if is_exact else fidelity_on(runnables[name], prepared.data),
            )
        )
        write_measurements(graduate.folder, students[-1], profile)
    measured = FinalMeasurement(
        key=key,
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
    state.write(MEASUREMENT, measured)
    return measured


def _measure_latencies(
    references: Sequence[Reference], students: Mapping[str, Runnable], profile: LatencyProfile, *, seconds: float
) -> dict[str, Latency]:
    subjects: dict[str, Measurable] = {reference.name: reference.spec for reference in references}
    if not backend_of(profile.runtime).is_exact:
        subjects[TEACHER] = random_student(backend_of(Runtime.TORCH), references[0].spec, n_threads=profile.n_threads)
    return measure_latencies({**subjects, **students}, profile, min_seconds=seconds)


def _runnable(folder: Path, profile: LatencyProfile) -> Runnable:
    student = read_folder(folder)
    return backend_of(profile.runtime).build(student.spec, student.weights, n_threads=profile.n_threads)


def write_measurements(folder: Path, entry: MeasuredStudent, profile: LatencyProfile) -> None:
    """Adds the measurements to the folder's student.json, so that they are part of every copy of it."""
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
    write_json(path, {**document, "measurements": measurements}, durable=True)


def _measurement_key(
    prepared: Prepared, references: Sequence[Reference], graduates: Sequence[Graduate], profile: LatencyProfile
) -> str:
    backend = backend_of(profile.runtime)
    parts = [machine_name(), backend.identity(), str(profile.to_json()), *prepared.identity.values()]
    parts += [f"{reference.name} {reference.fidelity}" for reference in references]
    parts += [f"{graduate.record.name} {student_digest(graduate.folder)}" for graduate in graduates]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
