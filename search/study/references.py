# SPDX-License-Identifier: Apache-2.0
"""The reference points of a front: the teacher, the teacher truncated to its first k layers, the trained static table.

Their latency is measured as the students' is, except for the teacher's: the baseline is the float32 model in torch. If
the students' runtime is not exact (the engine, 8-bit weights), the teacher on that runtime is one more reference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from search.console.progress import Reporter
from search.storage.reference_students import STATIC_TABLE, TEACHER, first_layers_name, teacher_name_on
from search.storage.study_state import StateFile, StudyState
from search.study.prepare import Prepared
from spaces.profile import Runtime
from spaces.student import StudentSpec
from trainers.distil.loop import DistillationData
from trainers.distil.static_table import static_spec
from trainers.measure.backends.backend import Runnable, embed_sentences
from trainers.measure.backends.runtimes import backend_of
from trainers.measure.fidelity import Fidelity, measure_fidelity
from trainers.modules.build import student_from_weights
from trainers.modules.embed import embed_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One reference and its fidelity; its latency is measured together with the students'."""

    name: str
    """`teacher`, `teacher-on-engine`, `teacher-first-3-layers` or `static-table`."""
    spec: StudentSpec
    """Its architecture."""
    fidelity: Fidelity
    """On the held-out text, in float32; for `teacher-on-engine` on the engine, with 8-bit weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceFidelities:
    """The stored fidelities of a study's references, reused while the key is equal."""

    key: str
    """Digests of what they depend on: teachers, held-out text, static table, an inexact runtime."""
    fidelities: Mapping[str, Fidelity]
    """Fidelity by reference name."""

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `from_json` reads."""
        return {"key": self.key, "fidelities": {name: one.to_json() for name, one in self.fidelities.items()}}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ReferenceFidelities:
        """The value of an object that `to_json` returned."""
        fidelities = {name: Fidelity.from_json(one) for name, one in document["fidelities"].items()}
        return cls(key=document["key"], fidelities=fidelities)


REFERENCES: StateFile[ReferenceFidelities] = StateFile(
    name="references", to_json=ReferenceFidelities.to_json, from_json=ReferenceFidelities.from_json
)
"""The fidelities that the last command measured or read."""


def measure_references(prepared: Prepared, *, state: StudyState, reporter: Reporter) -> tuple[Reference, ...]:
    """All references of a study, the teacher first; stored fidelities with the same key are reused."""
    specs = reference_specs(prepared.teacher.spec, prepared.calibration.profile.runtime)
    key = _fidelities_key(prepared)
    known = state.read(REFERENCES)
    fidelities = dict(known.fidelities) if known is not None and known.key == key else {}
    bar = reporter.step(f"measuring the fidelity of {len(specs)} references")
    for number, name in enumerate(specs):
        if name not in fidelities:
            fidelities[name] = _measure_fidelity(name, specs[name], prepared)
        bar(number + 1, len(specs))
    state.write(REFERENCES, ReferenceFidelities(key=key, fidelities=fidelities))
    return tuple(Reference(name=name, spec=spec, fidelity=fidelities[name]) for name, spec in specs.items())


def reference_specs(teacher: StudentSpec, runtime: Runtime) -> dict[str, StudentSpec]:
    """Specs of the references by name: the teacher, the teacher truncated to its first layers, the static table."""
    specs = {TEACHER: teacher}
    if not backend_of(runtime).is_exact:
        specs[teacher_name_on(runtime)] = teacher
    encoder = teacher.encoder
    assert encoder is not None, "a teacher has layers"
    for k in range(encoder.n_layers - 1, 0, -1):
        specs[first_layers_name(k)] = replace(teacher, encoder=replace(encoder, n_layers=k))
    return {**specs, STATIC_TABLE: static_spec(teacher)}


def _measure_fidelity(name: str, spec: StudentSpec, prepared: Prepared) -> Fidelity:
    data, table, profile = prepared.data, prepared.inheritance.static_table, prepared.calibration.profile
    if name == teacher_name_on(profile.runtime):
        backend = backend_of(profile.runtime)
        return fidelity_on(backend.build(spec, prepared.teacher.weights, n_threads=profile.n_threads), data)
    if name == STATIC_TABLE:
        assert table is not None
        student = student_from_weights(spec, {"static.tokens": table}, device=torch.device(prepared.device))
        vectors = embed_tokens(student, data.held_out_token_ids, data.held_out_offsets)
    else:
        vectors = np.asarray(prepared.held_out_at_depths[spec.n_layers - 1])
    return measure_fidelity(vectors, data.held_out_embeddings)


def fidelity_on(student: Runnable, data: DistillationData) -> Fidelity:
    """Fidelity on the held-out text of a student or teacher as built for a runtime."""
    vectors = embed_sentences(student, data.held_out_token_ids, data.held_out_offsets)
    return measure_fidelity(vectors, data.held_out_embeddings)


def _fidelities_key(prepared: Prepared) -> str:
    table = prepared.inheritance.static_table
    assert table is not None
    digest = hashlib.sha256(np.ascontiguousarray(table).tobytes()).hexdigest()
    backend = backend_of(prepared.calibration.profile.runtime)
    inexact = [] if backend.is_exact else [backend.identity()]
    return "-".join([*prepared.identity.values(), digest, *inexact])
