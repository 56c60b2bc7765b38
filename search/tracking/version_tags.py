# SPDX-License-Identifier: Apache-2.0
"""An entry as the tags of a registered model version, and back: what the MLflow UI shows and `select` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields

from search.records.front import MeasuredStudent
from search.tracking.names import VersionTag, fidelity_tag
from spaces.errors import UserError
from spaces.profile import LatencyProfile
from trainers.measure.fidelity import Fidelity


def tags_of(entry: MeasuredStudent, *, teacher: str, profile: LatencyProfile) -> dict[str, str]:
    """Tags that `entry_of` turns back into an equal entry; an absent value is an empty tag."""
    low_ms, high_ms = entry.latency_interval_ms
    return {
        VersionTag.STUDENT: entry.name,
        VersionTag.ON_FRONT: "true" if entry.on_front else "false",
        VersionTag.DOMINATED_BY: entry.dominated_by or "",
        VersionTag.TEACHER: teacher,
        VersionTag.PROFILE: json.dumps(profile.to_json()),
        VersionTag.SPEC: json.dumps(dict(entry.spec)),
        VersionTag.N_LAYERS: str(entry.n_layers),
        VersionTag.LATENCY: repr(entry.latency_ms),
        VersionTag.LATENCY_LOW: repr(low_ms),
        VersionTag.LATENCY_HIGH: repr(high_ms),
        VersionTag.SPEEDUP: repr(entry.speedup),
        VersionTag.N_PARAMETERS: str(entry.n_parameters),
        VersionTag.N_BYTES: str(entry.n_bytes),
    } | {fidelity_tag(name): repr(float(value)) for name, value in asdict(entry.fidelity).items()}


def entry_of(tags: Mapping[str, str], *, name: str, version: str, aliases: tuple[str, ...]) -> MeasuredStudent:
    """The entry of version `version` of model `name`. Raises ValueError if its tags are not those of a student."""
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
            fidelity=Fidelity(**{field.name: float(tags[fidelity_tag(field.name)]) for field in fields(Fidelity)}),
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
