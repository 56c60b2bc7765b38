# SPDX-License-Identifier: Apache-2.0
"""An entry as the tags of a registered model version, and back: what the MLflow UI shows and `select` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields

from search.records.front import MeasuredStudent
from spaces.profile import LatencyProfile
from trainers.measure.fidelity import Fidelity

STUDENT = "student"
DIGEST = "sha256"
ON_FRONT = "on_front"
DOMINATED_BY = "dominated_by"
PROFILE = "profile"
TEACHER = "teacher"


def tags_of(entry: MeasuredStudent, *, teacher: str, profile: LatencyProfile) -> dict[str, str]:
    """Tags that `entry_of` turns back into an equal entry; an absent value is an empty tag."""
    low_ms, high_ms = entry.latency_interval_ms
    return {
        STUDENT: entry.name,
        ON_FRONT: "true" if entry.on_front else "false",
        DOMINATED_BY: entry.dominated_by or "",
        TEACHER: teacher,
        PROFILE: json.dumps(profile.to_json()),
        "spec": json.dumps(dict(entry.spec)),
        "n_layers": str(entry.n_layers),
        "latency_ms": repr(entry.latency_ms),
        "latency_low_ms": repr(low_ms),
        "latency_high_ms": repr(high_ms),
        "speedup": repr(entry.speedup),
        "n_parameters": str(entry.n_parameters),
        "n_bytes": str(entry.n_bytes),
    } | {f"fidelity.{name}": repr(float(value)) for name, value in asdict(entry.fidelity).items()}


def entry_of(tags: Mapping[str, str], *, name: str, version: str, aliases: tuple[str, ...]) -> MeasuredStudent:
    """The entry of version `version` of model `name`. Raises ValueError if its tags are not those of a student."""
    try:
        return MeasuredStudent(
            name=tags[STUDENT],
            n_layers=int(tags["n_layers"]),
            spec=json.loads(tags["spec"]),
            latency_ms=float(tags["latency_ms"]),
            latency_interval_ms=(float(tags["latency_low_ms"]), float(tags["latency_high_ms"])),
            speedup=float(tags["speedup"]),
            n_parameters=int(tags["n_parameters"]),
            n_bytes=int(tags["n_bytes"]),
            fidelity=Fidelity(**{field.name: float(tags[f"fidelity.{field.name}"]) for field in fields(Fidelity)}),
            version=version,
            aliases=aliases,
            dominated_by=tags[DOMINATED_BY] or None,
            on_front=tags[ON_FRONT] == "true",
            uri=f"models:/{name}/{version}",
        )
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"version {version} of model {name} does not carry a student's tags ({error}); "
            "delete the version in the MLflow UI, or search again"
        ) from None
