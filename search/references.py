# SPDX-License-Identifier: Apache-2.0
"""What costs nothing or little, and so must be beaten: the teacher, its first k layers, the trained static table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from search.preparation import Prepared
from search.progress import Reporter
from search.study_state import StudyState
from spaces.recipe import Precision
from spaces.student import StudentSpec
from trainers.build import student_from_weights
from trainers.embed import embed_tokens
from trainers.fidelity import Fidelity, measure_fidelity
from trainers.inherit import truncate
from trainers.modules.student import Student
from trainers.static_table import static_spec

TEACHER = "teacher"
STATIC_TABLE = "static-table"
_FACT = "references"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One reference and how faithful it is; its latency is measured with the students'."""

    name: str
    """`teacher`, `teacher-first-3-layers` or `static-table`."""
    spec: StudentSpec
    """What it is."""
    fidelity: Fidelity
    """On the held-out text, in bfloat16: within 0.001 of float32, and a fifth of its time."""


def measure_references(prepared: Prepared, *, state: StudyState, reporter: Reporter) -> tuple[Reference, ...]:
    """All references of a study, the teacher first; fidelities that an earlier command measured are read."""
    key = _key(prepared)
    known = state.read(_FACT) or {}
    fidelities = dict(known.get("fidelities", {})) if known.get("key") == key else {}
    n = _n_layers(prepared) + 1
    bar = reporter.step(f"measuring the fidelity of {n} references")
    references = []
    for number, (name, spec, student) in enumerate(reference_students(prepared)):
        if name not in fidelities:
            fidelities[name] = _fidelity(student, prepared).to_json()
            state.write(_FACT, {"key": key, "fidelities": fidelities})
        references.append(Reference(name=name, spec=spec, fidelity=Fidelity.from_json(fidelities[name])))
        bar(number + 1, n)
    return tuple(references)


def reference_students(prepared: Prepared) -> Iterator[tuple[str, StudentSpec, Student]]:
    """(name, spec, student) of every reference, made when asked for: the teacher, its cuts, the static table."""
    teacher = prepared.teacher
    yield TEACHER, teacher.spec, teacher.student()
    for k in range(_n_layers(prepared) - 1, 0, -1):
        spec, student = truncate(teacher, k)
        yield f"teacher-first-{k}-layer{'s' if k > 1 else ''}", spec, student
    table = prepared.inheritance.static_table
    assert table is not None
    spec = static_spec(teacher.spec)
    yield STATIC_TABLE, spec, student_from_weights(spec, {"static.tokens": table})


def _n_layers(prepared: Prepared) -> int:
    return prepared.teacher.spec.n_layers


def _fidelity(student: Student, prepared: Prepared) -> Fidelity:
    data = prepared.data
    vectors = embed_tokens(student, data.held_out_token_ids, data.held_out_offsets, precision=Precision.BFLOAT16)
    return measure_fidelity(vectors, data.held_out_embeddings)


def _key(prepared: Prepared) -> str:
    table = prepared.inheritance.static_table
    assert table is not None
    digest = hashlib.sha256(np.ascontiguousarray(table).tobytes()).hexdigest()
    return "-".join([*prepared.identity.values(), digest])[:200]
