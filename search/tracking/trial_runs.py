# SPDX-License-Identifier: Apache-2.0
"""Trials in MLflow: one flat run each, in one experiment per study, written by the driver alone.

Flat, because the MLflow UI collapses child runs and leaves their charts empty. A curve's step is the
training tokens seen. A run is found again by its study and trial number, and a trial that continues an
interrupted one goes on in that one's run, so a search that is interrupted and resumed shows each student once.
Optuna's storage is the truth: whatever MLflow has missed is written from the trial's record.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from search.records.objective import Objective
from search.records.trial import RungRecord, TrialRecord, TrialState, trials_once
from search.storage.store import Store
from search.tracking.client import client_of
from search.tracking.experiment import metrics_of, run_tags, runs_of_kind, study_experiment
from search.tracking.metrics import (
    END,
    RUNG,
    START,
    TRAINING_LOSS,
    TRAINING_TOKENS,
    UNTRAINED,
    MeasuredRung,
    values_of,
)
from search.tracking.names import RunParam, Tag, TrialParam
from spaces.student_words import describe
from spaces.study.spec import Device

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, Run

RunParams = Mapping[RunParam, str | int | float | None]
"""What all trials of a search share: teacher, profile, sample counts, commit, device."""

_MOST_METRICS = 1000  # limit of MLflow's `log_batch`
_MLFLOW_STATUS = {  # MLflow's UI shows KILLED like FAILED; Ray's and Optuna's own callbacks finish a pruned trial
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "FINISHED",
    TrialState.REFUSED: "FINISHED",
    TrialState.INTERRUPTED: "KILLED",
    TrialState.FAILED: "FAILED",
}


@dataclass(slots=True)
class _Run:
    """What is known of a trial's run."""

    id: str
    state: str
    status: str
    n_tokens: float
    """-1 until an end was written."""
    end_ms: int | None
    """When it ended; None while it runs."""
    known: set[str]
    """Names of what was written at the start."""
    rungs: set[int] | None
    """Tokens of the rungs that were written; None: not asked yet."""


class TrialLog:
    """The trials of a study as runs of the store's MLflow; whoever writes does so from one thread at a time.

    `params` become parameters of every run; with the teacher's predicted latency every rung gets its score.
    """

    def __init__(
        self,
        store: Store,
        study: str,
        *,
        params: RunParams,
        objective: Objective,
        teacher_latency_ms: float | None = None,
    ) -> None:
        """Touches nothing but the store's client; the runs are looked up when the first is written."""
        self._store = store
        self._client = client_of(store)
        self._study = study
        self._objective = objective
        self._run_params = {**provenance(), **params}
        self._teacher_latency_ms = teacher_latency_ms
        self._runs: dict[str, _Run] | None = None
        self._experiment = ""
        self._moments: dict[tuple[str, int], int] = {}
        self._continued: dict[int, int] = {}  # by the number of the trial that goes on

    def track_continuations(self, records: Iterable[TrialRecord]) -> None:
        """Remembers which trial continues which: one may have ended before anything was written of it."""
        self._continued |= {one.number: one.continues for one in records if one.continues is not None}

    def write(self, record: TrialRecord) -> None:
        """Updates the trial's run to the record, if they differ.

        May be repeated: the effects of an earlier, perhaps partial, attempt are looked up and completed.
        """
        try:
            runs = self._lookup()
            run = runs.get(record.name)
            if run is None or not _agrees(run, record):
                self._complete(run or self._continued_run(record) or self._create_run(record), record)
        except BaseException:
            self.forget()
            raise

    def forget(self) -> None:
        """Clears the cache of runs, which are looked up again before the next write."""
        self._runs = None

    def run_id(self, trial: str) -> str | None:
        """Id of the run of a trial by its name; None if it was never written."""
        run = self._lookup().get(trial)
        return None if run is None else run.id

    def _lookup(self) -> dict[str, _Run]:
        if self._runs is None:
            self._experiment = study_experiment(self._store, self._study)
            runs: dict[str, _Run] = {}
            for found in runs_of_kind(self._client, self._experiment, "trial"):
                trial = found.data.tags[Tag.TRIAL]
                if trial in runs:  # created twice, because the first request timed out
                    self._client.delete_run(found.info.run_id)
                else:
                    runs[trial] = _known(found)
            self._runs = runs
        return self._runs

    def _continued_run(self, record: TrialRecord) -> _Run | None:
        """Renames the run of the interrupted trial that this one continues, or of an earlier one, and returns it."""
        runs, number = self._lookup(), record.continues
        while number is not None:
            earlier = f"trial-{number:04d}"
            if earlier in runs:
                run = runs[earlier]
                self._client.update_run(run.id, name=record.name)
                self._client.log_batch(run.id, tags=run_tags({Tag.TRIAL: record.name, "mlflow.runName": record.name}))
                runs[record.name] = runs.pop(earlier)
                return run
            number = self._continued.get(number)
        return None

    def _create_run(self, record: TrialRecord) -> _Run:
        tags: dict[str, str] = {
            Tag.KIND: "trial",
            Tag.STUDY: self._study,
            Tag.TRIAL: record.name,
            Tag.STATE: TrialState.RUNNING.value,
            Tag.STUDENT: describe(record.spec),
        }
        commit = self._run_params.get(RunParam.COMMIT)
        if commit is not None:
            tags["mlflow.source.git.commit"] = str(commit)
        created = self._client.create_run(self._experiment, run_name=record.name, tags=tags).info.run_id
        run = _Run(created, TrialState.RUNNING, "RUNNING", -1.0, None, known=set(), rungs=set())
        self._lookup()[record.name] = run
        return run

    def _complete(self, run: _Run, record: TrialRecord) -> None:
        """Writes what the run lacks, the state last: a run with the final state is complete."""
        self._write_start(run, record)
        self._write_rungs(run, record)
        status, n_tokens = _MLFLOW_STATUS[record.state], record.n_tokens
        if record.state is TrialState.RUNNING:
            if run.state != record.state or run.status != status:
                self._client.log_batch(run.id, tags=run_tags({Tag.STATE: record.state.value, Tag.OUTCOME: ""}))
                self._client.update_run(run.id, status=status)
        else:
            tags: dict[str, str] = {Tag.STATE: record.state.value, Tag.OUTCOME: str(record.outcome or "")}
            self._client.log_batch(
                run.id, metrics=metrics_of(values_of(END, record), step=n_tokens), tags=run_tags(tags)
            )
            # A run that has ended so already, and of which something else was missing, did not end now.
            end_ms = run.end_ms if run.state == record.state else None
            self._client.set_terminated(run.id, status=status, end_time=end_ms)
            run.n_tokens, run.end_ms = n_tokens, end_ms or int(time.time() * 1000)
        run.state, run.status = record.state.value, status

    def _write_start(self, run: _Run, record: TrialRecord) -> None:
        values = trial_parameters(record) | {key: value for key, value in self._run_params.items() if value is not None}
        # Parameters cannot be changed, and come whole or not at all: those of an earlier command stay.
        params = [] if "params" in run.known else _params(values)
        metrics = {name: value for name, value in values_of(START, record).items() if name not in run.known}
        if params or metrics:
            self._client.log_batch(run.id, params=params, metrics=metrics_of(metrics, step=0))
        run.known |= {"params", *metrics}

    def _write_rungs(self, run: _Run, record: TrialRecord) -> None:
        if run.rungs is None:
            run.rungs = {metric.step for metric in self._client.get_metric_history(run.id, TRAINING_LOSS)}
        metrics: list[Metric] = []
        steps = [rung for rung in record.rungs if rung.n_tokens not in run.rungs]
        for rung in steps:
            # Sent again with the time of the first attempt, it is the same point to MLflow, should both arrive.
            moment = self._moments.setdefault((record.name, rung.n_tokens), int(time.time() * 1000))
            if rung.untrained is not None:
                start = self._measured(record, replace(rung, fidelity=rung.untrained))
                metrics += metrics_of(values_of(UNTRAINED, start), step=0, time_ms=moment)
            values = values_of((*UNTRAINED, *RUNG), self._measured(record, rung))
            metrics += metrics_of(values, step=rung.n_tokens, time_ms=moment)
        for first in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(run.id, metrics=metrics[first : first + _MOST_METRICS])
        run.rungs |= {rung.n_tokens for rung in steps}

    def _measured(self, record: TrialRecord, rung: RungRecord) -> MeasuredRung:
        return MeasuredRung(
            record=record, rung=rung, objective=self._objective, teacher_latency_ms=self._teacher_latency_ms
        )


def endings(records: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    """The records of trials that have ended and that no other continues: each has its own run."""
    return tuple(record for record in trials_once(records) if record.state is not TrialState.RUNNING)


def _known(run: Run) -> _Run:
    tags, metrics = run.data.tags, run.data.metrics
    known = set(metrics) | ({"params"} if run.data.params else set())
    n_tokens = metrics.get(TRAINING_TOKENS, -1.0)
    state, info = tags.get(Tag.STATE, ""), run.info
    return _Run(info.run_id, state, info.status, n_tokens, info.end_time or None, known=known, rungs=None)


def _agrees(run: _Run, record: TrialRecord) -> bool:
    """Whether the run holds the record's end; a graduate's run may have more tokens than its trial's record."""
    ended = record.state is not TrialState.RUNNING and run.n_tokens >= record.n_tokens
    return ended and (run.state, run.status) == (record.state, _MLFLOW_STATUS[record.state])


def trial_parameters(record: TrialRecord) -> dict[str, Any]:
    """The point under its own names, then the whole spec and recipe, flat, as in `spec.encoder.width`."""
    parameters: dict[str, Any] = dict(record.point)
    parameters[TrialParam.SEED] = record.seed
    if record.spec is not None:
        parameters |= _flat(TrialParam.SPEC, record.spec.to_json())
    if record.recipe is not None:
        parameters |= _flat(TrialParam.RECIPE, record.recipe.to_json())
    return parameters


def provenance(device: Device = Device.CPU) -> dict[RunParam, str | int | float | None]:
    """Commit (None outside a checkout; `-dirty` if files changed), versions of this process, and the device's name."""
    import torch

    return {
        RunParam.COMMIT: _commit(),
        RunParam.DEVICE: device_name(device),
        RunParam.N_CPUS: os.cpu_count(),
        RunParam.PYTHON: sys.version.split()[0],
        RunParam.TORCH: str(torch.__version__),
    }


@cache
def _commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed package is not a checkout, whatever repository surrounds it
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return found or None


def device_name(device: Device) -> str:
    """The name of the device that a study trains on; for the CPU the processor's model name."""
    match device:
        case Device.CPU:
            return _processor()
        case _:
            assert_never(device)


@cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return os.uname().machine


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {} if value is None else {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(f"{prefix}.{key}", inner)
    return flat


def _params(values: Mapping[str, Any]) -> list[Param]:
    from mlflow.entities import Param

    return [Param(name, value if isinstance(value, str) else json.dumps(value)) for name, value in values.items()]
