# SPDX-License-Identifier: Apache-2.0
"""Reads artifacts of runs and models, from the store's folders or from a server.

Students that were downloaded from a server stay in the store's cache, because a logged model never changes.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.atomic import move_into_place
from runtime.folder import DOCUMENT_FILE
from search.storage.store import Store
from search.storage.tracking_uri import path_of
from search.tracking.client import activated
from search.tracking.relocation import was_place_of
from spaces.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def read_artifact(store: Store, client: MlflowClient, run: Run, name: str) -> str:
    """The text of a run's artifact."""
    if not store.on_server:
        return (artifact_path(store, run.info.artifact_uri) / name).read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run.info.run_id, name, folder)).read_text("utf-8")


def student_folder(store: Store, uri: str) -> Path:
    """The student's folder in the model at this address. Raises ValueError if there is none."""
    folder = _downloaded(store, uri) if store.on_server else artifact_path(store, uri) / "artifacts"
    found = sorted(folder.glob(f"*/{DOCUMENT_FILE}"))
    if not found:
        raise UserError(f"the model's files are gone: {uri} holds no student; search again to register it anew")
    return found[0].parent


def artifact_path(store: Store, uri: str) -> Path:
    """The folder of an artifact address.

    It is looked up in the store's own folder, because an address is that of the place where it was written: a store
    that was moved has nothing there any more, and one that was copied would find the original's. Only another store
    that tracks in the same database has its artifacts elsewhere.
    """
    path = path_of(uri)
    folders = [Path(*path.parts[: i + 1]) for i, part in enumerate(path.parts) if part == store.artifacts.name]
    for folder in folders:
        own = store.artifacts / path.relative_to(folder)
        if own != store.artifacts and own.exists():
            return own
    if not path.exists() or any(was_place_of(store, folder) for folder in folders):
        raise UserError(
            f"the files of {path} are not in {store.artifacts}: they were deleted, or the store was copied without "
            "them; copy the whole store again, or search again to register them anew"
        )
    return path


def _downloaded(store: Store, uri: str) -> Path:
    key = hashlib.sha256(f"{store.tracking_uri} {uri}".encode()).hexdigest()[:32]
    kept = store.cache / "students" / key
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with activated(store), tempfile.TemporaryDirectory(dir=kept.parent, prefix=".download-") as temporary:
            from mlflow.artifacts import download_artifacts

            folder = download_artifacts(artifact_uri=f"{uri.rstrip('/')}/artifacts", dst_path=temporary)
            with suppress(FileExistsError):  # another command has downloaded it meanwhile
                move_into_place(Path(folder), kept, durable=True, may_replace=False)
    return kept
