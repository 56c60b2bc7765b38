# SPDX-License-Identifier: Apache-2.0
"""The page of a study's runs has its columns and charts, in the words of the MLflow that is installed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import mlflow
import pytest

from search.records.objective import COSINE, OVERLAP_AT_10, Objective
from search.records.trial import TrialState
from search.storage.store import Store
from search.tracking.client import client_of, create_store
from search.tracking.experiment import study_experiment
from search.tracking.metrics import END, RUNG, START, STUDENT, UNTRAINED
from search.tracking.names import Tag
from search.tracking.runs_page import SHARE_KEY, VIEW_TAG, prepare_runs_page, runs_page, view_state
from search.tracking.trial_runs import TrialLog
from tests.search.tiny_records import record

MOST_CHARACTERS = 5000  # of an experiment's tag: mlflow/utils/validation.py, MAX_EXPERIMENT_TAG_VAL_LENGTH


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return create_store(Store(tmp_path_factory.mktemp("page") / "store"))


@pytest.fixture(scope="module")
def scripts() -> str:
    """The code of MLflow's UI."""
    folder = Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js"
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.js")))


def test_mlflow_knows_the_words_of_the_address_and_the_view(scripts: str) -> None:
    assert f'"{VIEW_TAG.removesuffix(SHARE_KEY)}"' in scripts
    for word in ("viewStateShareKey", "workflowType", "machine_learning", "compareRunsMode"):
        assert f'"{word}"' in scripts
    state = view_state(COSINE)
    lists = re.findall(r'\["(?:selectedColumns|searchFilter)"[^\]]*\]', scripts)
    assert set(state) <= {name for found in lists for name in json.loads(found)}
    assert f'="{state["runsHiddenMode"]}"' in scripts
    for chart in state["compareRunCharts"]:
        assert re.search(rf'\.{chart["type"]}="{chart["type"]}"', scripts)


@pytest.mark.parametrize("objective", [COSINE, OVERLAP_AT_10], ids=lambda objective: objective.name)
def test_every_column_and_chart_is_of_something_that_is_logged(objective: Objective) -> None:
    state = view_state(objective)
    logged = {metric.name for metrics in (START, UNTRAINED, RUNG, END, STUDENT) for metric in metrics}
    columns = [re.fullmatch(r"(metrics|tags)\.`([^`]+)`", column) for column in state["selectedColumns"]]
    assert {match[2] for match in columns if match and match[1] == "metrics"} <= logged
    assert {match[2] for match in columns if match and match[1] == "tags"} <= set(Tag)
    assert None not in columns
    assert state["orderByKey"] in state["selectedColumns"]
    sections = {section["uuid"] for section in state["compareRunSections"]}
    for chart in state["compareRunCharts"]:
        assert chart["metricSectionId"] in sections
        names = [chart[axis]["key"] for axis in ("xaxis", "yaxis") if axis in chart] or [chart["metricKey"]]
        assert set(names) <= logged
    assert len(json.dumps(state)) < MOST_CHARACTERS
    assert sum(objective.name in json.dumps(chart) for chart in state["compareRunCharts"]) == 3


def query_of(page: str) -> dict[str, Any]:
    assert page.startswith("#/experiments")
    return {name: values[0] for name, values in parse_qs(urlsplit(page.removeprefix("#")).query).items()}


def test_the_page_is_that_of_the_study_that_ran_last(store: Store) -> None:
    assert runs_page(store) == "#/experiments?workflowType=machine_learning"
    for study in ("first", "second"):
        TrialLog(store, study, params={}, objective=COSINE).write(record(0, state=TrialState.COMPLETE))
    client = client_of(store)
    client.create_run(client.create_experiment("not ours"))
    experiment = study_experiment(store, "second")
    page = runs_page(store)
    assert page.startswith(f"#/experiments/{experiment}/runs?")
    assert query_of(page) == {"workflowType": "machine_learning", "compareRunsMode": "CHART"}
    prepare_runs_page(client, experiment, COSINE)  # as a search and a registration do
    assert query_of(runs_page(store))["viewStateShareKey"] == SHARE_KEY
    assert json.loads(client.get_experiment(experiment).tags[VIEW_TAG]) == view_state(COSINE)
