# SPDX-License-Identifier: Apache-2.0
"""Reads a study from MLflow: its front, the folder of a model; sets aliases.

Nothing else is read or written, and no search needs to run. Artifacts are looked up relative to the store, so a store
that was copied elsewhere can still be read.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.folder import DOCUMENT_FILE
from search.records.front import Front, MeasuredStudent
from search.records.objective import Objective
from search.records.outcomes import OutcomeKind
from search.records.selection import BALANCED, SEARCH_ALIASES
from search.records.trial import TrialPoint
from search.storage.reference_students import is_reference, reference_student, require_student
from search.storage.store import Store
from search.tracking.artifacts import read_artifact, student_folder
from search.tracking.client import connected
from search.tracking.experiment import runs_of_kind
from search.tracking.metrics import PREDICTED_LATENCY, TRAINING_TOKENS, fidelity_metric
from search.tracking.names import Tag, VersionTag
from search.tracking.version_tags import student_from_tags
from spaces.errors import UserError
from spaces.fields import require_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run
    from mlflow.entities.model_registry import ModelVersion

RECORD_FILE = "front-record.json"
"""Artifact of the summary run that holds the whole front document, references included."""

_MODEL = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))?")
_LOGGED_MODEL = re.compile(r"m-[0-9a-f]{32}")


class NoFrontError(UserError):
    """There is no front of this study in the registry."""


def study_names(store: Store, *, own: bool = False) -> tuple[str, ...]:
    """Studies with a front, the latest first. Raises ValueError if there is no store.

    On a server there may be studies of other stores; `own` leaves them out, unless this store has none there at all.
    """
    store.require_exists()
    with connected(store) as client:
        experiments = _experiments(client)
        if own and store.identity is not None:
            experiments = [found for found in experiments if found.tags.get(Tag.OWNER) == store.identity] or experiments
        if not experiments:
            return ()
        runs = client.search_runs(
            [experiment.experiment_id for experiment in experiments],
            filter_string=f"tags.`{Tag.KIND}` = 'summary'",
            order_by=["attributes.end_time DESC"],
            max_results=1000,
        )
    return tuple(dict.fromkeys(run.data.tags[Tag.STUDY] for run in runs if run.info.end_time))


def load_front(store: Store, name: str | None = None) -> Front:
    """The front of study `name` (None: the latest), with today's versions and aliases.

    Raises NoStoreError if there is no store, and NoFrontError, naming those that exist, if there is no such study.
    """
    name = _study(store, name)
    with connected(store) as client:
        document = Front.from_record(json.loads(read_artifact(store, client, _summary(client, name), RECORD_FILE)))
        return as_registered(client, document)


def as_registered(client: MlflowClient, front: Front) -> Front:
    """The front with the registry's students; students and references have today's versions and aliases."""
    aliases, of_references = _aliases(client, front.study), reference_versions(client, front.study)

    def registered(entry: MeasuredStudent) -> MeasuredStudent:
        version = aliases.get(entry.name)  # a registered reference has its name as an alias
        if version not in of_references:  # or a user of an older version has set that alias
            return replace(entry, version=None, aliases=(), uri=None)
        pointing = tuple(sorted(alias for alias, target in aliases.items() if target == version))
        return replace(entry, version=version, aliases=pointing, uri=f"models:/{front.study}/{version}")

    students = tuple(entry for entry in registered_students(client, front.study) if entry.on_front)
    return replace(front, students=students, references=tuple(map(registered, front.references)))


def registered_students(client: MlflowClient, name: str) -> tuple[MeasuredStudent, ...]:
    """Every version of the study's model that is no reference, on the front or not, oldest first."""
    aliases = _aliases(client, name)
    return tuple(
        student_from_tags(
            version.tags,
            name=name,
            version=str(version.version),
            aliases=tuple(sorted(alias for alias, target in aliases.items() if target == str(version.version))),
        )
        for version in versions_of(client, name)
        if not _is_of_reference(version)
    )


def reference_versions(client: MlflowClient, name: str) -> set[str]:
    """The versions of the study's model that are references."""
    return {str(version.version) for version in versions_of(client, name) if _is_of_reference(version)}


def set_alias(store: Store, name: str, version: str, alias: str) -> None:
    """Points `alias` of model `name` to a version (and away from any other). Raises ValueError if either is wrong."""
    require_name("alias", alias)
    if alias in SEARCH_ALIASES or is_reference(alias) or alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias):
        raise UserError(
            f"the alias {alias} is not free: {', '.join(SEARCH_ALIASES)} and the references' are set by every search, "
            "latest and v1, v2, ... are MLflow's; choose another, such as production"
        )
    store.require_exists()
    with connected(store) as client:
        _version(client, name, version=str(version))
        client.set_registered_model_alias(name, alias, str(version))


def resolve_model(store: Store, model: str | Path) -> Path:
    """The student folder of `NAME` (its balanced student), `NAME@ALIAS`, `NAME/VERSION`, `models:/...` or a folder.

    An alias may be a reference's name, `NAME@teacher-on-engine`: any reference that is a student has a folder.

    Raises ValueError for an unknown model, alias or version, listing those that exist.
    """
    if (Path(model) / DOCUMENT_FILE).is_file():
        return Path(model)
    text = str(model).removeprefix("models:/")
    if _LOGGED_MODEL.fullmatch(text):
        store.require_exists()
        with connected(store) as client:
            return student_folder(store, _logged_model_uri(client, text))
    match = _MODEL.fullmatch(text)
    if match is None:
        raise UserError(
            f"{model} is neither a student folder nor a model: give a folder with a {DOCUMENT_FILE}, "
            "or NAME, NAME@ALIAS, NAME/VERSION of a registered model"
        )
    name, alias, version = match["name"], match["alias"], match["version"]
    store.require_exists()
    with connected(store) as client:
        if alias is not None and is_reference(alias) and alias not in _aliases(client, name):
            require_student(alias, others=tuple(_aliases(client, name)))
            folder = reference_student(store.study_folder(name), alias)
            if folder is not None:
                return folder
        found = _version(client, name, version=version, alias=alias or (None if version else BALANCED))
        return student_folder(store, client.get_model_version_download_uri(name, found.version))


def load_trials(store: Store, name: str, objective: Objective) -> tuple[TrialPoint, ...]:
    """The trials of study `name`, in order of their names, with the fidelity that the objective names.

    A graduate's run holds what was measured after graduation, not the brief trial's fidelity, which is None here.
    """
    store.require_exists()
    with connected(store) as client:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            return ()
        trials = [_trial_point(run, objective) for run in runs_of_kind(client, experiment.experiment_id, "trial")]
    return tuple(sorted(trials, key=lambda trial: trial.name))


def versions_of(client: MlflowClient, name: str) -> tuple[ModelVersion, ...]:
    """All versions of a registered model, oldest first; none if there is no such model."""
    found: list[ModelVersion] = []
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name='{name}'", max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return tuple(sorted(found, key=lambda version: int(version.version)))


def _is_of_reference(version: ModelVersion) -> bool:
    return version.tags.get(VersionTag.IS_REFERENCE) == "true"


def _logged_model_uri(client: MlflowClient, model_id: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        found: str = client.get_logged_model(model_id).artifact_location
    except MlflowException:
        raise UserError(f"there is no logged model {model_id}; name a registered one, as in NAME@{BALANCED}") from None
    return found


def _experiments(client: MlflowClient) -> list[Experiment]:
    """The experiments of studies."""
    found: list[Experiment] = []
    token: str | None = None
    while True:
        studies = f"tags.`{Tag.STUDY}` LIKE '%'"
        page = client.search_experiments(filter_string=studies, max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _study(store: Store, name: str | None) -> str:
    if name is not None:
        require_name("study", name)
    names = study_names(store, own=name is None)
    if not names:
        where = store.tracking_uri if store.on_server else store.root
        raise NoFrontError(f"the store {where} holds no front yet; run `understudy search`, or let it finish")
    if name is None:
        return names[0]
    if name not in names:
        raise NoFrontError(f"{_unknown('study', name, names)}; if its search was interrupted, start it again")
    return name


def _summary(client: MlflowClient, name: str) -> Run:
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None  # `_study` has found its summary run
    return max(runs_of_kind(client, experiment.experiment_id, "summary"), key=lambda run: run.info.end_time or 0)


def _version(client: MlflowClient, name: str, *, version: str | None = None, alias: str | None = None) -> ModelVersion:
    require_name("model", name)
    versions = {str(found.version): found for found in versions_of(client, name)}
    if not versions:
        raise UserError(_unknown("model", name, [model.name for model in client.search_registered_models()]))
    if alias is not None:
        aliases = _aliases(client, name)
        if alias not in aliases:
            raise UserError(_unknown(f"alias of {name}", alias, sorted(aliases)))
        version = aliases[alias]
    assert version is not None
    if version not in versions:
        raise UserError(_unknown(f"version of {name}", version, list(versions)))
    return versions[version]


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    """Version by alias; a search for versions leaves the aliases out."""
    if not client.search_registered_models(f"name='{name}'"):
        return {}
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def _unknown(kind: str, value: str, known: Sequence[str]) -> str:
    if not known:
        return f"there is no {kind} {value}: the store holds none"
    nearest = difflib.get_close_matches(value, known, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"there is no {kind} {value}; there are {', '.join(known)}{hint}"


def _trial_point(run: Run, objective: Objective) -> TrialPoint:
    tags, metrics = run.data.tags, run.data.metrics
    graduated = tags.get(Tag.OUTCOME, "").startswith((OutcomeKind.GRADUATED, OutcomeKind.BELOW_UNTRAINED))
    return TrialPoint(
        name=tags[Tag.TRIAL],
        student=tags.get(Tag.STUDENT, ""),
        state=tags.get(Tag.STATE, ""),
        outcome=tags.get(Tag.OUTCOME, ""),
        latency_ms=metrics.get(PREDICTED_LATENCY),
        fidelity=None if graduated else metrics.get(fidelity_metric(objective.name)),
        n_tokens=int(metrics.get(TRAINING_TOKENS, 0)),
    )
