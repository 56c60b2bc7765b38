# SPDX-License-Identifier: Apache-2.0
"""Measured latencies of a few dozen architectures on one machine, to which the latency predictor is fitted.

Latency does not depend on what weights have learnt, so the students are random. They are measured in
groups, each beside the teacher; dividing by the group's teacher takes out the machine's drift between groups.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.atomic import write_json
from spaces.profile import LatencyProfile
from spaces.student import StudentSpec
from trainers.measure.backends.runtimes import backend_of
from trainers.measure.latency import Measurable, measure_latencies
from trainers.measure.random_student import random_student, table_size

FORMAT = 1
GROUP_SIZE = 8  # students per group: the teacher's turns then cost about a quarter of the time

ReportProgress = Callable[[int, int], None]
"""Called with (students measured, students in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationPoint:
    """One architecture and its latency."""

    spec: StudentSpec
    """The architecture."""
    latency_ms: float
    """Median, rescaled to the teacher's overall latency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was measured on one machine under one profile."""

    profile: LatencyProfile
    """The conditions."""
    machine: str
    """Processor, its cores, and the version of torch."""
    points: tuple[CalibrationPoint, ...]
    """The teacher first, then the students."""
    backend: str | None = None
    """Versions and build of what ran the students (`Backend.identity`); None: measured before these were recorded."""

    @property
    def teacher_latency_ms(self) -> float:
        """The teacher's latency."""
        return self.points[0].latency_ms

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back into an equal calibration."""
        return {
            "format": FORMAT,
            "profile": self.profile.to_json(),
            "machine": self.machine,
            "backend": self.backend,
            "points": [{"spec": point.spec.to_json(), "latency_ms": point.latency_ms} for point in self.points],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Calibration:
        """The calibration that `to_json` wrote. Raises ValueError on anything else."""
        try:
            if document["format"] != FORMAT:
                raise ValueError(
                    f"calibrations of format {FORMAT} are read, got {document['format']!r}; calibrate again"
                )
            points = tuple(
                CalibrationPoint(spec=StudentSpec.from_json(point["spec"]), latency_ms=float(point["latency_ms"]))
                for point in document["points"]
            )
            profile = LatencyProfile.from_json(document["profile"])
            return cls(profile=profile, machine=document["machine"], points=points, backend=document.get("backend"))
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a latency calibration: {error!r}; delete the file to calibrate again") from None


def machine_name() -> str:
    """Processor, number of cores and version of torch, as a key of calibrations."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return f"{processor}, {os.cpu_count()} cores, torch {torch.__version__}"


def calibrate(
    teacher_spec: StudentSpec,
    specs: Sequence[StudentSpec],
    profile: LatencyProfile,
    *,
    seconds: float = 30.0,
    seed: int = 0,
    progress: ReportProgress | None = None,
) -> Calibration:
    """Measure the teacher's and the students' latencies with random weights, in about `seconds` in all.

    Wants a machine that is otherwise idle. A tight budget is overrun rather than a student measured less than
    `trainers.measure.latency.MIN_ROUNDS` times. Raises ValueError for a student too short for the profile's tokens.
    """
    start = time.monotonic()
    table = np.random.default_rng(seed).standard_normal(max(table_size(s) for s in (teacher_spec, *specs)), np.float32)
    backend = backend_of(profile.runtime)
    runnable = partial(random_student, backend, n_threads=profile.n_threads, table=table)
    teacher = runnable(teacher_spec)
    groups = [list(specs[i : i + GROUP_SIZE]) for i in range(0, len(specs), GROUP_SIZE)] or [[]]
    teacher_ms: list[float] = []
    ratios: list[float] = []
    for i, group in enumerate(groups):
        deadline = start + seconds * (i + 1) / len(groups)
        students: dict[str, Measurable] = {"teacher": teacher}
        students |= {str(j): runnable(spec) for j, spec in enumerate(group)}
        latencies = measure_latencies(students, profile, min_seconds=deadline - time.monotonic(), seed=seed + i)
        teacher_ms.append(latencies["teacher"].median_ms)
        ratios += [latencies[str(j)].median_ms / teacher_ms[-1] for j in range(len(group))]
        if progress is not None:
            progress(len(ratios), len(specs))
    overall_ms = float(np.median(teacher_ms))
    points = [CalibrationPoint(spec=teacher_spec, latency_ms=overall_ms)]
    points += [
        CalibrationPoint(spec=spec, latency_ms=ratio * overall_ms) for spec, ratio in zip(specs, ratios, strict=True)
    ]
    return Calibration(profile=profile, machine=machine_name(), points=tuple(points), backend=backend.identity())


def cached_calibration(
    folder: Path,
    teacher_spec: StudentSpec,
    specs: Sequence[StudentSpec],
    profile: LatencyProfile,
    *,
    seconds: float = 30.0,
    seed: int = 0,
    progress: ReportProgress | None = None,
) -> Calibration:
    """The calibration of this machine, profile, teacher and students: from the folder's file, or made now and kept.

    One that another version or build of the profile's runtime was measured with is not found.
    """
    identity = backend_of(profile.runtime).identity()
    key = [machine_name(), identity, profile.to_json(), teacher_spec.to_json(), [spec.to_json() for spec in specs]]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"latency-{digest}.json"
    if path.is_file():
        try:
            return Calibration.from_json(json.loads(path.read_text(encoding="utf-8")))
        except ValueError:  # also a damaged JSON: a cache is made again
            path.unlink()
    calibration = calibrate(teacher_spec, specs, profile, seconds=seconds, seed=seed, progress=progress)
    write_json(path, calibration.to_json(), durable=False)
    return calibration
