# SPDX-License-Identifier: Apache-2.0
"""A measured student as tags of a registered model version, which the MLflow UI shows and `select` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields

from search.records.front import MeasuredStudent
from search.tracking.names import VersionTag, fidelity_tag
from spaces.errors import UserError
from spaces.profile import LatencyProfile
from trainers.measure.fidelity import Fidelity


def tags_of(student: MeasuredStudent, *, teacher: str, profile: LatencyProfile) -> dict[str, str]:
    """The tags by name, which `student_from_tags` turns back into an equal student; None becomes an empty tag."""
    low_ms, high_ms = student.latency_interval_ms
    return {
        VersionTag.STUDENT: student.name,
        VersionTag.ON_FRONT: "true" if student.on_front else "false",
        VersionTag.DOMINATED_BY: student.dominated_by or "",
        VersionTag.TEACHER: teacher,
        VersionTag.PROFILE: json.dumps(profile.to_json()),
        VersionTag.SPEC: json.dumps(dict(student.spec)),
        VersionTag.N_LAYERS: str(student.n_layers),
        VersionTag.LATENCY: repr(student.latency_ms),
        VersionTag.LATENCY_LOW: repr(low_ms),
        VersionTag.LATENCY_HIGH: repr(high_ms),
        VersionTag.SPEEDUP: repr(student.speedup),
        VersionTag.N_PARAMETERS: str(student.n_parameters),
        VersionTag.N_BYTES: str(student.n_bytes),
    } | {fidelity_tag(name): repr(float(value)) for name, value in asdict(student.fidelity).items()}


def student_from_tags(tags: Mapping[str, str], *, name: str, version: str, aliases: tuple[str, ...]) -> MeasuredStudent:
    """The student that version `version` of model `name` holds. Raises ValueError if a tag is missing or malformed."""
    try:
        return MeasuredStudent(
            name=tags[VersionTag.STUDENT],
            n_layers=int(tags[VersionTag.N_LAYERS]),
            spec=json.loads(tags[VersionTag.SPEC]),
            latency_ms=float(tags[VersionTag.LATENCY]),
            latency_interval_ms=(float(tags[VersionTag.LATENCY_LOW]), float(tags[VersionTag.LATENCY_HIGH])),
            speedup=float(tags[VersionTag.SPEEDUP]),
            n_parameters=int(tags[VersionTag.N_PARAMETERS]),
            n_bytes=int(tags[VersionTag.N_BYTES]),
            fidelity=_fidelity_from_tags(tags),
            version=version,
            aliases=aliases,
            dominated_by=tags[VersionTag.DOMINATED_BY] or None,
            on_front=tags[VersionTag.ON_FRONT] == "true",
            uri=f"models:/{name}/{version}",
        )
    except (KeyError, ValueError) as error:
        raise UserError(
            f"version {version} of model {name} does not carry a student's tags ({error}); "
            "delete the version in the MLflow UI, or search again"
        ) from None


def _fidelity_from_tags(tags: Mapping[str, str]) -> Fidelity:
    """The fidelity in the tags, perhaps another version's. Raises ValueError if a measurement is missing."""
    names = {field.name: fidelity_tag(field.name) for field in fields(Fidelity)}
    return Fidelity.from_json({name: tags[tag] for name, tag in names.items() if tag in tags})
