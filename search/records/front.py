# SPDX-License-Identifier: Apache-2.0
"""One measured encoder (`MeasuredStudent`) and a study's result (`Front`: students and references).

`to_json` of both is the stable interface of `understudy front --json` and `select --json`; `to_record`
holds more (what the registry and the report need) and is read back by `from_record`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from search.optimiser.pareto import Point, dominator, is_finite, non_dominated
from search.records.objective import Objective, objective_from_json
from search.storage.reference_students import TEACHER
from spaces.cost import cost
from spaces.profile import LatencyProfile
from spaces.student import StudentSpec
from trainers.measure.fidelity import Fidelity


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStudent:
    """A student or a reference, measured under one latency profile."""

    name: str
    """`trial-0007` for a student; `teacher`, `static-table`, `teacher-first-3-layers` for references."""
    n_layers: int
    """Depth; 0 for a static student."""
    spec: Mapping[str, Any]
    """`StudentSpec.to_json()`."""
    latency_ms: float
    """Median of repeated calls, interleaved with the teacher's."""
    latency_interval_ms: tuple[float, float]
    """95% interval of the median."""
    speedup: float
    """The teacher's median latency over this one's."""
    n_parameters: int
    """All parameters."""
    n_bytes: int
    """Bytes of the float32 weights."""
    fidelity: Fidelity
    """Agreement with the teacher on held-out text."""
    version: str | None = None
    """Version of the study's registered model; None for what is not registered."""
    aliases: tuple[str, ...] = ()
    """Aliases that point to this version."""
    dominated_by: str | None = None
    """Name of a reference that is no slower and no less faithful; None if there is none."""
    on_front: bool = True
    """False once another student or a reference dominates it."""
    uri: str | None = None
    """`models:/NAME/VERSION`; None if not registered."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "aliases", tuple(self.aliases))
        low, high = self.latency_interval_ms
        object.__setattr__(self, "latency_interval_ms", (float(low), float(high)))

    @classmethod
    def measured(
        cls,
        name: str,
        spec: StudentSpec,
        *,
        latency_ms: float,
        latency_interval_ms: tuple[float, float],
        teacher_latency_ms: float,
        fidelity: Fidelity,
    ) -> MeasuredStudent:
        """An unregistered student or reference; depth, parameters and bytes are computed from the spec."""
        counted = cost(spec)
        return cls(
            name=name,
            n_layers=spec.n_layers,
            spec=spec.to_json(),
            latency_ms=latency_ms,
            latency_interval_ms=latency_interval_ms,
            speedup=teacher_latency_ms / latency_ms,
            n_parameters=counted.n_parameters,
            n_bytes=counted.n_bytes,
            fidelity=fidelity,
        )

    def changed(self, **fields: Any) -> MeasuredStudent:
        """A copy with some fields replaced."""
        return replace(self, **fields)

    def to_json(self, *, with_uri: bool = False) -> dict[str, Any]:
        """The entry of `front --json`; with its `uri`, the document of `select --json`."""
        document: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "aliases": list(self.aliases),
            "n_layers": self.n_layers,
            "spec": dict(self.spec),
            "latency_ms": self.latency_ms,
            "latency_interval_ms": list(self.latency_interval_ms),
            "speedup": self.speedup,
            "n_parameters": self.n_parameters,
            "n_bytes": self.n_bytes,
            "fidelity": asdict(self.fidelity),
        }
        if with_uri:
            document["uri"] = self.uri
        return document

    def to_record(self) -> dict[str, Any]:
        """All fields as a JSON object that `from_record` turns back into an equal entry."""
        return {**self.to_json(with_uri=True), "dominated_by": self.dominated_by, "on_front": self.on_front}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> MeasuredStudent:
        """The entry that `to_record` wrote. Raises ValueError on anything else."""
        try:
            return cls(**{**record, "fidelity": Fidelity.from_json(record["fidelity"])})
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"not an entry of a front: {error}; an entry is the object that to_record writes"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """A study's result: the students that no other dominates, and the references."""

    study: str
    """Name of the study."""
    teacher: str
    """Name of the teacher, or several joined by ` + `."""
    profile: LatencyProfile
    """The conditions of every latency in the document."""
    objective: Objective
    """Which measurement is the fidelity."""
    references: tuple[MeasuredStudent, ...]
    """The teacher first, then points that cost little or no training."""
    students: tuple[MeasuredStudent, ...]
    """Front students, fastest first; no reference dominates one of them."""
    dominated: tuple[MeasuredStudent, ...] = ()
    """Students that a reference but no other student dominates (`dominated_by`): shown, never registered."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "references", tuple(self.references))
        for name in ("students", "dominated"):
            ordered = sorted(getattr(self, name), key=lambda entry: entry.latency_ms)
            object.__setattr__(self, name, tuple(ordered))

    @classmethod
    def of(
        cls,
        study: str,
        *,
        teacher: str,
        profile: LatencyProfile,
        objective: Objective,
        references: Iterable[MeasuredStudent],
        students: Iterable[MeasuredStudent],
    ) -> Front:
        """The front of measured students: those that neither a student nor a reference dominates.

        Students that are not finite or that another student dominates are left out; those that only a
        reference dominates become `dominated`, with its name.
        """
        references = tuple(references)
        measured = [(objective.point(entry.latency_ms, entry.fidelity), entry) for entry in students]
        measured = [(point, entry) for point, entry in measured if is_finite(point)]
        to_beat = [objective.point(reference.latency_ms, reference.fidelity) for reference in references]
        front, dominated = [], []
        for i in non_dominated([point for point, _ in measured]):
            point, entry = measured[i]
            by = dominator(point, to_beat)
            if by is None:
                front.append(replace(entry, dominated_by=None, on_front=True))
            else:
                dominated.append(replace(entry, dominated_by=references[by].name, on_front=False))
        return cls(
            study=study,
            teacher=teacher,
            profile=profile,
            objective=objective,
            references=references,
            students=tuple(front),
            dominated=tuple(dominated),
        )

    def competing_references(self) -> tuple[MeasuredStudent, ...]:
        """The references that are students and that no student and no other of them dominates."""
        references = [entry for entry in self.references if entry.name != TEACHER]
        points = [self.point_of(entry) for entry in (*references, *self.students)]
        kept = {i for i in non_dominated(points) if is_finite(points[i])}
        return tuple(entry for i, entry in enumerate(references) if i in kept)

    def fidelity_of(self, entry: MeasuredStudent) -> float:
        """The fidelity of a student or reference, in the measurement that the objective names."""
        return self.objective.of(entry.fidelity)

    def point_of(self, entry: MeasuredStudent) -> Point:
        """(latency, fidelity) of a student or reference."""
        return self.objective.point(entry.latency_ms, entry.fidelity)

    def to_json(self) -> dict[str, Any]:
        """The document of `front --json`."""
        return {
            "study": self.study,
            "teacher": self.teacher,
            "profile": self.profile.to_json(),
            "references": [entry.to_json() for entry in self.references],
            "students": [entry.to_json() for entry in self.students],
        }

    def to_record(self) -> dict[str, Any]:
        """All fields as a JSON object that `from_record` turns back into an equal document."""
        return {
            **self.to_json(),
            "objective": {"fidelity": self.objective.name},
            "references": [entry.to_record() for entry in self.references],
            "students": [entry.to_record() for entry in self.students],
            "dominated": [entry.to_record() for entry in self.dominated],
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Front:
        """The document that `to_record` wrote. Raises ValueError on anything else."""
        try:
            return cls(
                study=record["study"],
                teacher=record["teacher"],
                profile=LatencyProfile.from_json(record["profile"]),
                objective=objective_from_json(record.get("objective")),
                references=tuple(MeasuredStudent.from_record(entry) for entry in record["references"]),
                students=tuple(MeasuredStudent.from_record(entry) for entry in record["students"]),
                dominated=tuple(MeasuredStudent.from_record(entry) for entry in record.get("dominated", ())),
            )
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a front: missing or wrong {error}") from None
