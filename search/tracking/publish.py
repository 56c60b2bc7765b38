# SPDX-License-Identifier: Apache-2.0
"""A study's front, written to MLflow: versions of one registered model, their tags and aliases, one summary run.

The registered model has the study's name. A version is a student, identified by the digest of its folder: if the same
student is registered again, its version's tags are updated. A version that is no longer on the front stays, with
`on_front` = false. `search.tracking.registry` reads all of it back.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.engine import native_module
from runtime.folder import DOCUMENT_FILE, TOKENIZER_FILE, WEIGHTS_FILE, student_digest
from search.records.front import Front, MeasuredStudent
from search.records.front_table import front_columns, front_markdown
from search.records.objective import Objective
from search.records.selection import BALANCED, FASTEST, MOST_FAITHFUL, SEARCH_ALIASES, balanced
from search.records.trial import TrialPoint
from search.storage.reference_students import is_reference, reference_student
from search.storage.store import Store
from search.tracking.client import activated, client_of
from search.tracking.experiment import (
    metrics_of,
    owner_tags,
    run_tags,
    runs_of_kind,
    study_experiment,
    summary_run,
)
from search.tracking.metrics import STUDENT as STUDENT_METRICS
from search.tracking.metrics import SUMMARY, Summary, values_of
from search.tracking.names import Tag, VersionTag
from search.tracking.registry import RECORD_FILE, as_registered, load_trials, reference_versions, versions_of
from search.tracking.runs_page import prepare_runs_page
from search.tracking.trial_runs import RunParams, provenance
from search.tracking.version_tags import tags_of
from spaces.errors import UserError
from spaces.student import StudentSpec
from spaces.student_words import describe

if TYPE_CHECKING:
    from mlflow import MlflowClient

TABLE_FILE = "front-table.json"
JSON_FILE = "front.json"
PAGE_FILE = "front.html"

_ROOT = Path(__file__).resolve().parents[2]
_MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "pyyaml", "safetensors", "tokenizers")


def register_front(
    store: Store,
    front: Front,
    *,
    folders: Mapping[str, Path],
    page: Callable[[Front, Sequence[TrialPoint]], str],
    params: RunParams | None = None,
) -> Front:
    """Registers a front's students as versions of its study's model; returns the front with versions and aliases.

    `folders` holds the folder of every front student by its name (dominated ones may be in it: they get no
    version, but one that they have is brought up to date), and those of the references that are registered too.
    `page` writes the registered front and the study's trials as an HTML page, an artifact of the summary run; `params`
    become tags of that run. Versions that are not in it are no longer on the front.
    """
    missing = [entry.name for entry in front.students if entry.name not in folders]
    if missing:
        raise ValueError(f"every front student needs its folder: none was given for {', '.join(missing)}")
    study = front.study
    experiment = study_experiment(store, study)
    client = client_of(store)
    prepare_runs_page(client, experiment, front.objective)
    summary = summary_run(store, client, experiment, study)
    if not client.search_registered_models(f"name='{study}'"):
        client.create_registered_model(study, tags=owner_tags(store, study))

    runs = {run.data.tags[Tag.TRIAL]: run.info.run_id for run in runs_of_kind(client, experiment, "trial")}
    known = {version.tags.get(VersionTag.DIGEST): str(version.version) for version in versions_of(client, study)}
    versions: dict[str, MeasuredStudent] = {}
    references = {entry.name: entry for entry in front.references if entry.name in folders}
    for entry in (*front.students, *references.values()):
        digest = student_digest(folders[entry.name])
        if digest not in known:
            of_reference = entry.name in references
            run = _reference_run(client, experiment, front, entry) if of_reference else runs.get(entry.name, summary)
            new = _NewVersion(
                entry=entry, folder=folders[entry.name], digest=digest, run=run, of_reference=of_reference
            )
            _delete_abandoned(client, experiment, digest)
            known[digest] = _create_version(store, client, front, new)
        versions[known[digest]] = entry
    for entry in front.dominated:
        number = known.get(student_digest(folders[entry.name])) if entry.name in folders else None
        if number is not None:
            versions.setdefault(number, entry)

    _update_versions(client, front, versions, references)
    own = {number: entry for number, entry in versions.items() if entry.on_front and entry.name not in references}
    names = {entry.name: number for number, entry in versions.items() if entry.name in references}
    _update_aliases(client, study, _search_aliases(own, front.objective) | names)
    registered = as_registered(client, front)
    _write_summary(store, client, summary, registered, page=page, params=params or {})
    return registered


def register_reference(store: Store, front: Front, entry: MeasuredStudent) -> MeasuredStudent:
    """The reference of the front with its version, which it is given now if it has none; a student stays as it is.

    A search registers those references that nothing on the front dominates. Raises ValueError if the store does not
    have its files.
    """
    if entry.version is not None:
        return entry
    folder = reference_student(store.study_folder(front.study), entry.name)
    if folder is None:
        raise UserError(
            f"the files of {entry.name} of {front.study} are not in {store.root}: a search writes them at its end; "
            "search again there with more trials"
        )
    entry = replace(entry, on_front=False)  # a student of the front dominates it
    experiment, client, digest = study_experiment(store, front.study), client_of(store), student_digest(folder)
    known = {version.tags.get(VersionTag.DIGEST): str(version.version) for version in versions_of(client, front.study)}
    if digest not in known:
        run = _reference_run(client, experiment, front, entry)
        new = _NewVersion(entry=entry, folder=folder, digest=digest, run=run, of_reference=True)
        _delete_abandoned(client, experiment, digest)
        known[digest] = _create_version(store, client, front, new)
    client.set_registered_model_alias(front.study, entry.name, known[digest])
    return next(one for one in as_registered(client, front).references if one.name == entry.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _NewVersion:
    entry: MeasuredStudent
    folder: Path
    digest: str
    run: str
    of_reference: bool


def _reference_run(client: MlflowClient, experiment: str, front: Front, entry: MeasuredStudent) -> str:
    """Id of the run that has a reference's measurements, in the list beside those of the trials."""
    for run in runs_of_kind(client, experiment, "reference"):
        if run.info.run_name == entry.name:
            found: str = run.info.run_id
            return found
    words = describe(StudentSpec.from_json(dict(entry.spec)))
    tags: dict[str, str] = {Tag.KIND: "reference", Tag.STUDY: front.study, Tag.STUDENT: words}
    created: str = client.create_run(experiment, run_name=entry.name, tags=tags).info.run_id
    return created


def _create_version(store: Store, client: MlflowClient, front: Front, new: _NewVersion) -> str:
    """The number of a new version, which is not on the front until all versions are updated."""
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    entry, run = new.entry, new.run
    spec = StudentSpec.from_json(dict(entry.spec))
    # Outputs alone: with a schema of the inputs MLflow turns all input into data frames and refuses empty lists.
    signature = ModelSignature(outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, spec.output_dim))]))
    with (
        activated(store),
        _end_preserved(client, run),
        tempfile.TemporaryDirectory() as temporary,
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")  # it asks for an input example, and would run the student to check it
        folder = Path(temporary) / "student"  # MLflow refuses addresses with a # in them, and links
        folder.mkdir()
        for name in (DOCUMENT_FILE, WEIGHTS_FILE, TOKENIZER_FILE):
            shutil.copyfile(new.folder / name, folder / name)
        with mlflow.start_run(run_id=run, nested=True):
            logged = mlflow.pyfunc.log_model(
                name=entry.name,
                python_model=str(_MODEL_CODE),
                artifacts={"student": str(folder)},
                code_paths=[str(package) for package in _copy_packages(Path(temporary) / "code")],
                pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in _REQUIREMENTS],
                signature=signature,
                tags={Tag.STUDY: front.study, VersionTag.DIGEST: new.digest},
            )
        client.log_batch(run, metrics=metrics_of(values_of(STUDENT_METRICS, entry), step=0, model_id=logged.model_id))
        tags = tags_of(replace(entry, on_front=False), teacher=front.teacher, profile=front.profile)
        if new.of_reference:
            tags[VersionTag.IS_REFERENCE] = "true"
        version = client.create_model_version(
            front.study,
            source=logged.model_uri,
            run_id=run,
            model_id=logged.model_id,
            tags=tags | {VersionTag.DIGEST: new.digest},
            description=describe(spec),
        )
    return str(version.version)


def _delete_abandoned(client: MlflowClient, experiment: str, digest: str) -> None:
    """Delete what an interrupted registration has logged of a student that has no version."""
    for model in client.search_logged_models([experiment], filter_string=f"tags.{VersionTag.DIGEST} = '{digest}'"):
        client.delete_logged_model(model.model_id)


def _copy_packages(folder: Path) -> list[Path]:
    """Copies `runtime`, `spaces` and the engine built for this machine, to be logged with a model; returns the folders.

    If the engine does not load on another machine, NumPy runs the student, with a warning.
    """
    packages = []
    for name in ("runtime", "spaces"):
        left_out = shutil.ignore_patterns("native", "_native*", "__pycache__", "*.pyi", "*.typed")
        packages.append(Path(shutil.copytree(_ROOT / name, folder / name, ignore=left_out)))
    native = native_module()
    if native is not None:
        shutil.copyfile(native, folder / "runtime" / native.name)
    return packages


@contextlib.contextmanager
def _end_preserved(client: MlflowClient, run: str) -> Iterator[None]:
    """Restores a run's status and end time after the block: logging a model would set them anew."""
    before = client.get_run(run).info
    try:
        yield
    finally:
        if before.end_time is not None:
            client.set_terminated(run, status=before.status, end_time=before.end_time)


def _update_versions(
    client: MlflowClient, front: Front, versions: Mapping[str, MeasuredStudent], references: Container[str]
) -> None:
    for version in versions_of(client, front.study):
        entry = versions.get(str(version.version))
        tags: dict[str, str] = {VersionTag.ON_FRONT: "false"}
        if entry is not None:
            tags = tags_of(entry, teacher=front.teacher, profile=front.profile)
            if entry.name in references:
                tags[VersionTag.IS_REFERENCE] = "true"
        for name, value in tags.items():
            if version.tags.get(name) != value:
                client.set_model_version_tag(front.study, str(version.version), name, value)


def _search_aliases(versions: Mapping[str, MeasuredStudent], objective: Objective) -> dict[str, str]:
    """Version by alias, of the front's ends and its knee."""
    if not versions:
        return {}
    return {
        FASTEST: min(versions, key=lambda number: versions[number].latency_ms),
        MOST_FAITHFUL: max(versions, key=lambda number: objective.of(versions[number].fidelity)),
        BALANCED: list(versions)[balanced(list(versions.values()), objective)],
    }


def _update_aliases(client: MlflowClient, study: str, wanted: Mapping[str, str]) -> None:
    """Sets the aliases that belong to the search, its own and the references', and deletes those that it does not.

    An alias of a reference's name that points to another version is a user's, from a version that let users set it.
    """
    present, of_references = client.get_registered_model(study).aliases, reference_versions(client, study)
    for alias, version in present.items():
        is_own = alias in SEARCH_ALIASES or (is_reference(alias) and str(version) in of_references)
        if is_own and alias not in wanted:
            client.delete_registered_model_alias(study, alias)
    for alias, version in wanted.items():
        if str(present.get(alias)) != version:
            client.set_registered_model_alias(study, alias, version)


def _write_summary(
    store: Store,
    client: MlflowClient,
    run: str,
    front: Front,
    *,
    page: Callable[[Front, Sequence[TrialPoint]], str],
    params: RunParams,
) -> None:
    """Logs the front as table, JSON, HTML page and record, with metrics and tags; then ends the run."""
    import pandas as pd

    trials = load_trials(store, front.study, front.objective)
    # What MLflow's `log_table` writes; but that would append to the table of an earlier search.
    table = pd.DataFrame(front_columns(front), dtype=object).to_json(orient="split", index=False)
    client.log_text(run, table, TABLE_FILE)
    client.set_tag(run, "mlflow.loggedArtifacts", json.dumps([{"path": TABLE_FILE, "type": "table"}]))
    client.log_text(run, json.dumps(front.to_json(), indent=2), JSON_FILE)
    client.log_text(run, page(front, trials), PAGE_FILE)
    client.log_text(run, json.dumps(front.to_record()), RECORD_FILE)
    values = values_of(SUMMARY, Summary(front=front, trials=trials))
    client.log_batch(run, metrics=metrics_of(values, step=0))
    known = {name: value for name, value in {**provenance(), **params}.items() if value is not None}
    tags = {f"understudy.{name}": str(value) for name, value in known.items()}
    client.log_batch(run, tags=run_tags(tags | {"mlflow.note.content": front_markdown(front)}))
    client.set_terminated(run, status="FINISHED")
