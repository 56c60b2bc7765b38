# SPDX-License-Identifier: Apache-2.0
"""The plan of a search: all settings that decide which trials it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.records.objective import Objective
from spaces.domain import Value
from spaces.space import Space
from spaces.student import StudentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPlan:
    """Settings that decide which trials a search makes."""

    name: str
    """Name of the study."""
    folder: Path
    """The study's folder: journal and checkpoints."""
    space: Space
    """The search space."""
    teacher: StudentSpec
    """Supplies what points leave out, and the latency that students must be below."""
    rungs: tuple[int, ...]
    """Training tokens at which a trial is evaluated; the last ends it."""
    predict: Callable[[StudentSpec], float]
    """Predicted latency in milliseconds under the study's profile."""
    objective: Objective
    """Which measurement is the fidelity."""
    seed: int = 0
    """Seed of the sampler and, so that students are comparable, of every student."""
    n_trials: int | None = None
    """Most trials that are trained, earlier runs included; None: as many as the time allows."""
    n_startup_trials: int = 5
    """Trials before the sampler uses its model."""
    sampler: str = "front"
    """`front`, `tpe`, `gp`, `random`, or MODULE:CLASS of a sampler of Optuna."""
    pruner: str = "front"
    """`front`, `none`, or MODULE:CLASS of a pruner of Optuna."""
    prune_ratio: float = 4.0
    """See `FrontPruner`."""
    rung_time_limit_s: float | None = None
    """Seconds within which a trial must reach its next rung; None: see `search.workers.heartbeat`."""
    trial_memory_gib: float | None = None
    """Memory limit of a trial in GiB; None: no limit."""
    initial_points: Sequence[Mapping[str, Value]] = ()
    """Points that are tried first."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that must be equal when this study is continued, so that its trials are comparable."""
