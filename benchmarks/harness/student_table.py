# SPDX-License-Identifier: Apache-2.0
"""Students whose learning curves were measured (`benchmarks/student_curves.py`), as a problem to replay searches on.

A searcher asks for any point of the space and gets the nearest student that it has not had yet. Its trial is that
student's: the point that was asked for is told as failed, and the student's point is enqueued, which every sampler of
Optuna understands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.trial import TrialState

from benchmarks.harness.problem import Point
from search.optimiser.encoding import UnitCube
from search.optimiser.surrogate import distributions
from search.report.history import dominated_area
from search.trials.points import active_point, suggest_point
from search.trials.problem import worst_cost
from spaces.dimensions import DIMENSIONS
from spaces.space import Space
from spaces.study import StudySpec, parse_study

_ROW = "row"


@dataclass(frozen=True)
class StudentTable:
    """Curves of students; cost is log2 of milliseconds, error 1 less the mean cosine.

    The hypervolume counts as the search counts: in doublings of latency times halvings of the error.
    """

    log2_error = True

    study: StudySpec
    """The study with the students' space, rungs and teacher."""
    rows: tuple[dict[str, Any], ...]
    """Lines of the file that have a whole curve."""
    teacher_latency_ms: float
    """As it was measured beside the students'."""

    @classmethod
    def read(cls, files: Sequence[Path]) -> StudentTable:
        """All students of some files of one study. Raises ValueError if there is none."""
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        about = next(line for line in lines if "study" in line)
        rows = {line["number"]: line for line in lines if "rungs" in line and "failed" not in line}
        if not rows:
            raise ValueError(f"a table needs students, and there are none in {', '.join(map(str, files))}")
        study = parse_study(json.dumps(about["study"]))
        return cls(study, tuple(rows[number] for number in sorted(rows)), about["teacher_latency_ms"])

    @property
    def space(self) -> Space:
        """Search space of the study."""
        return self.study.space

    @property
    def rungs(self) -> Sequence[int]:
        """Rungs of the study."""
        return self.study.search.rungs

    @cached_property
    def points(self) -> list[Point]:
        """(cost, error) of all students, fully trained."""
        return [(math.log2(row["latency_ms"]), 1.0 - row["rungs"][-1][1]) for row in self.rows]

    @cached_property
    def reference(self) -> Point:
        """A doubling of latency beyond the teacher, and nine tenths of the errors."""
        return self.worst_cost, float(np.quantile([error for _, error in self.points], 0.9))

    @property
    def worst_cost(self) -> float:
        """Cost of the reference."""
        return worst_cost(self.teacher_latency_ms)

    def hypervolume(self, points: Sequence[Point]) -> float:
        """Hypervolume up to the reference."""
        return dominated_area(points, self.reference)

    def ask(self, study: optuna.Study) -> tuple[optuna.Trial, dict[str, Any]] | None:
        """The nearest student that was not tried; None if all were."""
        had = {trial.user_attrs.get(_ROW) for trial in study.get_trials(deepcopy=False)}
        left = [i for i in range(len(self.rows)) if i not in had]
        if not left:
            return None
        asked = study.ask()
        wanted = suggest_point(asked, self.space)
        apart = np.sum((self._columns[left] - self._cube.columns(self._cube.coordinates(wanted)[None])) ** 2, axis=1)
        row = left[int(np.argmin(apart))]
        study.tell(asked, state=TrialState.FAIL)
        study.enqueue_trial(self.rows[row]["point"], user_attrs={_ROW: row})
        trial = study.ask()
        return trial, suggest_point(trial, self.space)

    def cost(self, configuration: Mapping[str, Any]) -> float | None:
        """Cost of the students of this structure; None if the table has none."""
        return self._costs.get(self._structure(configuration))

    def active(self, configuration: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `active_point`."""
        return active_point(configuration, self.space)

    def curve(self, configuration: Mapping[str, Any]) -> list[float]:
        """Learning curve of the student with this point."""
        return [1.0 - cosine for _, cosine, _ in self._by_point[_text(configuration)]["rungs"]]

    @cached_property
    def _by_point(self) -> dict[str, dict[str, Any]]:
        return {_text(row["point"]): row for row in self.rows}

    @cached_property
    def _costs(self) -> dict[str, float]:
        return {self._structure(row["point"]): cost for row, (cost, _) in zip(self.rows, self.points, strict=True)}

    def _structure(self, configuration: Mapping[str, Any]) -> str:
        active = active_point(configuration, self.space)
        return _text({name: value for name, value in active.items() if DIMENSIONS[name].structural})

    @cached_property
    def _cube(self) -> UnitCube:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for row in self.rows:
            study.enqueue_trial(row["point"])
            suggest_point(study.ask(), self.space)
        return UnitCube(distributions(study))

    @cached_property
    def _columns(self) -> npt.NDArray[np.float64]:
        return self._cube.columns(np.array([self._cube.coordinates(row["point"]) for row in self.rows]))


def _text(configuration: Mapping[str, Any]) -> str:
    return json.dumps(dict(configuration), sort_keys=True)
