# SPDX-License-Identifier: Apache-2.0
"""A study's experiment in MLflow: its creation, its owner tags, its runs.

One experiment and one registered model have the study's name. On a server others may use that name as well, so both
are tagged with the identity of the store that made them, and no other store writes to them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from search.records.objective import objective_of
from search.storage.store import Store
from search.storage.tracking_uri import path_of
from search.tracking.client import client_of, connected
from search.tracking.names import Tag
from search.tracking.relocation import relocate
from search.tracking.runs_page import prepare_runs_page
from spaces.errors import UserError
from spaces.study.spec import StudySpec

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run, RunTag

STUDY_FILE = "study.json"
"""Artifact of the summary run on a server: the study; writing it checks that artifacts can be written."""


def study_experiment(store: Store, study: str) -> str:
    """Id of the study's experiment, which is created, or restored if it was deleted in the UI.

    Raises ValueError if it belongs to another store.
    """
    store.study_folder(study)  # checks the name
    relocate(store)
    if study == "Default":
        raise UserError("the study name Default is MLflow's own experiment; choose another name")
    client = client_of(store)
    experiment = client.get_experiment_by_name(study)
    location = None if store.on_server else f"{store.artifact_uri}/{study}"
    if experiment is None:
        # The kind tells MLflow's UI to open the experiment with its runs and curves, not with traces of chats.
        tags = {**owner_tags(store, study), "mlflow.experimentKind": "custom_model_development"}
        created: str = client.create_experiment(study, artifact_location=location, tags=tags)
        return created
    _require_owner(store, "experiment", study, experiment.tags)
    present = experiment.artifact_location
    if location not in (None, present) and not _is_own(store, present):
        raise UserError(
            f"the artifacts of study {study} belong to the store that made it: they are in {present}, not in "
            f"{store.root}; search there, or under another name (--name)"
        )
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    found: str = experiment.experiment_id
    return found


def claim_experiment(store: Store, study: StudySpec) -> None:
    """Creates the study's experiment before anything is computed; on a server, also checks what registering needs.

    Raises ValueError if the name belongs to another store there, or if the server is too old or keeps no artifacts.
    """
    objective = objective_of(study.objective)
    if not store.on_server:
        prepare_runs_page(client_of(store), study_experiment(store, study.name), objective)
        return
    with connected(store) as client:
        experiment = study_experiment(store, study.name)
        prepare_runs_page(client, experiment, objective)
        for model in client.search_registered_models(f"name='{study.name}'"):
            _require_owner(store, "model", study.name, model.tags)
        _require_new_enough(store, client, experiment)
        run = summary_run(store, client, experiment, study.name)
        try:
            client.log_text(run, json.dumps(study.to_json(), indent=1), STUDY_FILE)
        except Exception as error:  # whatever keeps the artifacts: MLflow itself, a folder, a cloud's own package
            location = client.get_run(run).info.artifact_uri
            raise UserError(
                f"the MLflow server at {store.tracking_uri} must keep artifacts, but {location} cannot be written "
                f"from here: {str(error).splitlines()[0]}; start it with --serve-artifacts, "
                "MLflow's default, or install and configure what that address needs"
            ) from error


def owner_tags(store: Store, study: str) -> dict[str, str]:
    """Tags of the study's experiment and registered model."""
    identity = store.identity
    return {Tag.STUDY: study} if identity is None else {Tag.STUDY: study, Tag.OWNER: identity}


def summary_run(store: Store, client: MlflowClient, experiment: str, study: str) -> str:
    """Id of the study's summary run, the same for every search; it runs until there is a front."""
    for run in runs_of_kind(client, experiment, "summary"):
        found: str = run.info.run_id
        return found
    tags: dict[str, str] = {Tag.KIND: "summary", Tag.STUDY: study}
    created: str = client.create_run(experiment, run_name="front", tags=tags).info.run_id
    return created


def runs_of_kind(client: MlflowClient, experiment: str, kind: str) -> Iterator[Run]:
    """The experiment's runs of one kind (`trial`, `reference` or `summary`), oldest first."""
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment],
            filter_string=f"tags.`{Tag.KIND}` = '{kind}'",
            order_by=["attributes.start_time ASC"],
            max_results=1000,
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def metrics_of(
    values: Mapping[str, float], *, step: int, model_id: str | None = None, time_ms: int | None = None
) -> list[Metric]:
    """MLflow's metrics for `log_batch`, all at one step and one time, None: now; with an id they are a model's too."""
    from mlflow.entities import Metric

    moment = int(time.time() * 1000) if time_ms is None else time_ms
    return [Metric(name, float(value), moment, step, model_id) for name, value in values.items()]


def run_tags(values: Mapping[str, str]) -> list[RunTag]:
    """MLflow's tags for `log_batch`."""
    from mlflow.entities import RunTag

    return [RunTag(name, value) for name, value in values.items()]


def _is_own(store: Store, location: str) -> bool:
    """Whether an experiment's artifacts are in this store's folder, perhaps by another path."""
    folder = path_of(location).parent
    return folder.is_dir() and folder.samefile(store.artifacts)


def _require_owner(store: Store, kind: str, study: str, tags: Mapping[str, str]) -> None:
    if store.on_server and tags.get(Tag.OWNER) != store.identity:
        raise UserError(
            f"on a server the {kind} of a study belongs to the store that made it, and {study} at "
            f"{store.tracking_uri} is not of {store.root}; search under another "
            "name (--name), or in the store that made it"
        )


def _require_new_enough(store: Store, client: MlflowClient, experiment: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.search_logged_models([experiment], max_results=1)
    except MlflowException as error:
        if error.get_http_status_code() not in (400, 404, 405, 501):
            raise
        raise UserError(
            f"the MLflow server must know logged models, as MLflow 3 does, and {store.tracking_uri} does not; "
            "update it, or track elsewhere"
        ) from error
