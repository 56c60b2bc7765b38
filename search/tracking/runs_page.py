# SPDX-License-Identifier: Apache-2.0
"""The page of a study's runs in MLflow's UI, with columns and charts prepared.

MLflow keeps the state of a shared view of that page (its button Share) as a tag of the experiment, and an address with
`viewStateShareKey` shows it: columns, order, visible runs and charts. This writes such a state. Without it the table
shows no metric, the charts are of the ten latest runs, and the address of the server leads to the pages for generative
AI. MLflow does not document the state's form; this follows MLflow 3.17, and what it does not know it leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from search.records.objective import Objective
from search.storage.store import Store
from search.tracking.client import connected
from search.tracking.metrics import (
    PREDICTED_LATENCY,
    STUDENT_LATENCY,
    TRAINING_LOSS,
    TRAINING_TOKENS,
    fidelity_metric,
    student_fidelity_metric,
)
from search.tracking.names import Tag

if TYPE_CHECKING:
    from mlflow import MlflowClient

SHARE_KEY = "understudy"
VIEW_TAG = f"mlflow.sharedViewState.{SHARE_KEY}"
MOST_RUNS = 1000
"""Runs in a chart; MLflow's default is 10, or 100 points."""

_WORKFLOW = {"workflowType": "machine_learning"}


def prepare_runs_page(client: MlflowClient, experiment: str, objective: Objective) -> None:
    """Writes the state of the page's view, which `runs_page` shows."""
    client.set_experiment_tag(experiment, VIEW_TAG, json.dumps(view_state(objective)))


def runs_page(store: Store) -> str:
    """The end of the address, from its `#`, of the page of the runs of the study that was searched last.

    Without such a study it is that of all experiments. Raises TrackingError if a server does not answer.
    """
    with connected(store) as client:
        experiments = {found.experiment_id: found for found in client.search_experiments() if Tag.STUDY in found.tags}
        latest = ["attributes.start_time DESC"]
        runs = client.search_runs(list(experiments), order_by=latest, max_results=1) if experiments else []
    if not runs:
        return f"#/experiments?{urlencode(_WORKFLOW)}"
    found = experiments[runs[0].info.experiment_id]
    return runs_address(found.experiment_id, found.tags)


def runs_address(experiment: str, tags: Mapping[str, str]) -> str:
    """The end of the address of an experiment's runs; the view is the prepared one if its tags hold it."""
    query = _WORKFLOW | {"compareRunsMode": "CHART"}
    if VIEW_TAG in tags:
        query["viewStateShareKey"] = SHARE_KEY
    return f"#/experiments/{experiment}/runs?{urlencode(query)}"


def view_state(objective: Objective) -> dict[str, Any]:
    """The state of the view: what MLflow's page of runs writes when it is shared, as far as it differs."""
    fidelity, measured = fidelity_metric(objective.name), student_fidelity_metric(objective.name)
    columns = [STUDENT_LATENCY, measured, PREDICTED_LATENCY, fidelity, TRAINING_TOKENS]
    return {
        "orderByKey": _column("metrics", fidelity),
        "orderByAsc": False,
        "selectedColumns": [
            *(_column("metrics", name) for name in columns),
            _column("tags", Tag.STATE),
            _column("tags", Tag.OUTCOME),
            _column("tags", Tag.STUDENT),
        ],
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [_section("front", "The front"), _section("curves", "Fidelity and loss in training")],
        "compareRunCharts": [
            _scatter("front", STUDENT_LATENCY, measured),  # registered students
            _scatter("front", PREDICTED_LATENCY, fidelity),  # all trials
            _curve("curves", fidelity),
            _curve("curves", TRAINING_LOSS),
        ],
        "isAccordionReordered": True,
    }


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _section(uuid: str, name: str) -> dict[str, Any]:
    shown = {"display": True, "deleted": False, "isReordered": True, "isGenerated": False}
    return {"uuid": uuid, "name": name, "columns": 2, "cardHeight": 400} | shown


def _scatter(section: str, x: str, y: str) -> dict[str, Any]:
    axes = {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}
    return _chart(section, "SCATTER", f"{x} {y}") | axes


def _curve(section: str, metric: str) -> dict[str, Any]:
    return _chart(section, "LINE", metric) | {
        "displayName": metric,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def _chart(section: str, kind: str, uuid: str) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "type": kind,
        "metricSectionId": section,
        "runsCountToCompare": MOST_RUNS,
        "deleted": False,
        "isGenerated": False,
    }
