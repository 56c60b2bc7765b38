# SPDX-License-Identifier: Apache-2.0
"""Trials in MLflow: one flat run each, in one experiment per study, written by the driver alone.

Flat, because the MLflow UI collapses child runs and leaves their charts empty. A curve's step is the
training tokens seen. A run is found again by its study and trial number, and a trial that continues an
interrupted one goes on in that one's run, so a search that is interrupted and resumed shows each student once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.objective import score
from search.store import Store
from search.trial import RungRecord, TrialRecord, TrialState, describe
from spaces.cost import cost

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, Run, RunTag

KIND = "understudy.kind"
"""Tag of a run: `trial` or `summary`."""
STUDY = "understudy.study"
TRIAL = "understudy.trial"
STATE = "understudy.state"
OUTCOME = "understudy.outcome"
STUDENT = "understudy.student"

COSINE = "fidelity/cosine"
PREDICTED_LATENCY = "cost/predicted_latency_ms"

Facts = Mapping[str, str | int | float | None]
"""What all trials of a search share: teacher, profile, sample counts, commit, device."""

_MLFLOW_STATUS = {
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.REFUSED: "KILLED",
    TrialState.INTERRUPTED: "KILLED",
    TrialState.FAILED: "FAILED",
}


class TrialLog:
    """An observer that writes trials to the store's MLflow database.

    `facts` become parameters of every run; with the teacher's predicted latency every rung gets its score.
    """

    def __init__(self, store: Store, study: str, *, facts: Facts, teacher_latency_ms: float | None = None) -> None:
        self._client = store.client()
        self._study = study
        self._facts = {**provenance(), **facts}
        self._teacher_latency_ms = teacher_latency_ms
        self._experiment = study_experiment(store, study)
        self._runs: dict[str, str] = {}
        self._states: dict[str, str] = {}
        self._logged: dict[str, set[int]] = {}
        for run in runs_of_kind(self._client, self._experiment, "trial"):
            self._runs[run.data.tags[TRIAL]] = run.info.run_id
            self._states[run.info.run_id] = run.data.tags.get(STATE, "")
            if run.data.tags.get(STATE) == TrialState.RUNNING:  # its driver was killed
                self._set_state(run.info.run_id, TrialState.INTERRUPTED, "interrupted: the driver ended")

    def trial_started(self, record: TrialRecord) -> None:
        """Create the trial's run, or go on in the run that it already has."""
        run = self._run_of(record)
        self._set_state(run, TrialState.RUNNING, "")
        self._log_rungs(run, record)

    def rung_reached(self, record: TrialRecord) -> None:
        """Add the last rung to the curves, in one call."""
        self._log_rungs(self._run_of(record), record)

    def trial_ended(self, record: TrialRecord) -> None:
        """Write the final state, the outcome and what the trial cost."""
        run = self._run_of(record)
        self._log_rungs(run, record)
        n_tokens = record.n_tokens
        totals = {"cost/seconds": record.seconds, "cost/training_tokens": float(n_tokens)}
        self._client.log_batch(run, metrics=metrics_of(totals, step=n_tokens))
        self._set_state(run, record.state, record.outcome)

    def catch_up(self, records: Iterable[TrialRecord]) -> None:
        """Write the ends that a killed driver could not: of trials that the study's storage knows to have ended."""
        records = list(records)
        continued = {record.continues for record in records}
        for record in records:
            if record.state is TrialState.RUNNING or record.number in continued:
                continue
            run = self._runs.get(record.name)
            if run is None or self._states.get(run) != record.state:
                self.trial_ended(record)

    def run_id(self, trial: str) -> str | None:
        """Id of the run of a trial by its name; None if it was never logged."""
        return self._runs.get(trial)

    def _run_of(self, record: TrialRecord) -> str:
        run = self._runs.get(record.name)
        if run is None and record.continues is not None:
            run = self._runs.pop(f"trial-{record.continues:04d}", None)
            if run is not None:
                self._client.update_run(run, name=record.name)
                self._client.log_batch(run, tags=run_tags({TRIAL: record.name, "mlflow.runName": record.name}))
        if run is None:
            run = self._create(record)
        self._runs[record.name] = run
        return run

    def _create(self, record: TrialRecord) -> str:
        tags = {KIND: "trial", STUDY: self._study, TRIAL: record.name, STATE: record.state.value}
        tags[STUDENT] = describe(record.spec)
        commit = self._facts.get("commit")
        if commit is not None:
            tags["mlflow.source.git.commit"] = str(commit)
        run: str = self._client.create_run(self._experiment, run_name=record.name, tags=tags).info.run_id
        parameters = trial_parameters(record) | {key: value for key, value in self._facts.items() if value is not None}
        self._client.log_batch(run, params=_params(parameters), metrics=metrics_of(_known_at_start(record), step=0))
        self._logged[run] = set()
        return run

    def _log_rungs(self, run: str, record: TrialRecord) -> None:
        if run not in self._logged:
            history = self._client.get_metric_history(run, COSINE)
            self._logged[run] = {metric.step for metric in history}
        metrics: list[Metric] = []
        for rung in record.rungs:
            if rung.n_tokens not in self._logged[run]:
                self._logged[run].add(rung.n_tokens)
                metrics += metrics_of(self._rung_values(record, rung), step=rung.n_tokens)
        if metrics:
            self._client.log_batch(run, metrics=metrics)

    def _rung_values(self, record: TrialRecord, rung: RungRecord) -> dict[str, float]:
        values = {f"fidelity/{name}": float(value) for name, value in asdict(rung.fidelity).items()}
        values |= {"training/loss": rung.loss, "training/tokens_per_s": rung.tokens_per_s}
        if self._teacher_latency_ms is not None and record.predicted_latency_ms is not None:
            values["score"] = score(rung.fidelity.cosine, self._teacher_latency_ms / record.predicted_latency_ms)
        return values

    def _set_state(self, run: str, state: TrialState, outcome: str) -> None:
        self._states[run] = state.value
        self._client.log_batch(run, tags=run_tags({STATE: state.value, OUTCOME: outcome}))
        if state is TrialState.RUNNING:
            self._client.update_run(run, status="RUNNING")
        else:
            self._client.set_terminated(run, status=_MLFLOW_STATUS[state])


def study_experiment(store: Store, study: str) -> str:
    """Id of the study's experiment, which is created, or restored if it was deleted in the UI."""
    store.study_folder(study)  # checks the name
    if study == "Default":
        raise ValueError("the study name Default is MLflow's own experiment; choose another name")
    client = store.client()
    experiment = client.get_experiment_by_name(study)
    location = f"{store.artifact_uri}/{study}"
    if experiment is None:
        # The kind tells MLflow's UI to open the experiment with its runs and curves, not with traces of chats.
        tags = {STUDY: study, "mlflow.experimentKind": "custom_model_development"}
        created: str = client.create_experiment(study, artifact_location=location, tags=tags)
        return created
    if experiment.artifact_location != location:
        raise ValueError(
            f"the store was moved: study {study} writes to {experiment.artifact_location}, not to {store.root}; "
            "move the store back, or search under another name (it can still be read here)"
        )
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    found: str = experiment.experiment_id
    return found


def runs_of_kind(client: MlflowClient, experiment: str, kind: str) -> Iterator[Run]:
    """The experiment's runs of one kind (`trial` or `summary`), oldest first."""
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment],
            filter_string=f"tags.`{KIND}` = '{kind}'",
            order_by=["attributes.start_time ASC"],
            max_results=1000,
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def trial_parameters(record: TrialRecord) -> dict[str, Any]:
    """The point under its own names, then the whole spec and recipe, flat, as in `spec.encoder.width`."""
    parameters: dict[str, Any] = dict(record.point)
    parameters["seed"] = record.seed
    if record.spec is not None:
        parameters |= _flat("spec", record.spec.to_json())
    if record.recipe is not None:
        parameters |= _flat("recipe", record.recipe.to_json())
    return parameters


def provenance() -> dict[str, str | int | None]:
    """Commit (None outside a checkout; `-dirty` if files changed), device and versions of this process."""
    import torch

    device = _processor()
    if torch.cuda.is_available():
        device = f"{torch.cuda.get_device_name(0)}; {device}"
    return {
        "commit": _commit(),
        "device": device,
        "n_cpus": os.cpu_count(),
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),
    }


@cache
def _commit() -> str | None:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():  # an installed package is not a checkout, whatever repository surrounds it
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return found or None


@cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return os.uname().machine


def _known_at_start(record: TrialRecord) -> dict[str, float]:
    values: dict[str, float] = {}
    if record.predicted_latency_ms is not None:
        values[PREDICTED_LATENCY] = record.predicted_latency_ms
    if record.spec is not None:
        values |= {f"cost/{name}": float(value) for name, value in asdict(cost(record.spec)).items()}
    return values


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {} if value is None else {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(f"{prefix}.{key}", inner)
    return flat


def metrics_of(values: Mapping[str, float], *, step: int, model_id: str | None = None) -> list[Metric]:
    """MLflow's metrics for `log_batch`, all at one step and now; with an id they are a logged model's too."""
    from mlflow.entities import Metric

    now_ms = int(time.time() * 1000)
    return [Metric(name, float(value), now_ms, step, model_id) for name, value in values.items()]


def _params(values: Mapping[str, Any]) -> list[Param]:
    from mlflow.entities import Param

    return [Param(name, value if isinstance(value, str) else json.dumps(value)) for name, value in values.items()]


def run_tags(values: Mapping[str, str]) -> list[RunTag]:
    """MLflow's tags for `log_batch`."""
    from mlflow.entities import RunTag

    return [RunTag(name, value) for name, value in values.items()]
