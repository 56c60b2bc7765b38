# SPDX-License-Identifier: Apache-2.0
"""The folder in which searches leave everything they measure.

    STORE/mlflow.db           MLflow's tracking and registry database (sqlite)
    STORE/artifacts/          what runs and models hold
    STORE/tracking.json       where MLflow is instead, if a search was told so: a server then keeps both of these
    STORE/cache/              teachers' outputs, tokenised corpora, latency calibrations: may be deleted
    STORE/studies/NAME/       one study: Optuna's journal, checkpoints, student folders

A store tracks in one place, for all its studies.

Use a local disk: sqlite and the study's lock are files that network file systems do not lock reliably.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from runtime.atomic import read_json, write_json
from search.storage.tracking_uri import database_of, database_uri, is_server, require_tracking_uri
from spaces.errors import UserError
from spaces.fields import require_name

DEFAULT_ROOT = "understudy-store"
ROOT_VARIABLE = "UNDERSTUDY_STORE"


class NoStoreError(UserError):
    """No search has created a store in this folder."""


@dataclass(frozen=True, slots=True)
class Store:
    """The store in folder `root`; making the value touches no disk."""

    root: Path
    """Absolute folder."""
    tracking: str | None = None
    """Address of MLflow; None: the one that the folder remembers, else its own database."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root).expanduser().absolute())
        if "?" in str(self.root) or "%" in str(self.root):
            raise UserError(
                f"the path of a store becomes a database address, so it must not hold '?' or '%': {self.root}; "
                f"choose another folder (--store or ${ROOT_VARIABLE})"
            )
        if self.tracking is not None:
            object.__setattr__(self, "tracking", require_tracking_uri(self.tracking))

    @classmethod
    def default(cls, *, tracking: str | None = None) -> Store:
        """The store that $UNDERSTUDY_STORE names, else `understudy-store` in the current folder."""
        return cls(Path(os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT), tracking)

    @property
    def database(self) -> Path:
        """MLflow's sqlite file; of a store that tracks on a server, the one that is not there."""
        return self.root / "mlflow.db" if self.on_server else database_of(self.tracking_uri)

    @property
    def artifacts(self) -> Path:
        """Artifacts of runs and models."""
        return self.root / "artifacts"

    @property
    def cache(self) -> Path:
        """What can be computed again."""
        return self.root / "cache"

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking and registry address."""
        return self.tracking or self._remembered().get("uri") or self._own_uri

    @property
    def on_server(self) -> bool:
        """Whether this store tracks on a server, which then keeps the artifacts, too."""
        return is_server(self.tracking_uri)

    @property
    def identity(self) -> str | None:
        """What tells this store's studies from others of the same name on a server; None unless it tracks on one."""
        found: str | None = self._remembered().get("store")
        return found

    @property
    def artifact_uri(self) -> str:
        """Root of the artifacts, as an address."""
        return self.artifacts.as_uri()

    def study_folder(self, name: str) -> Path:
        """The folder of study `name`, not created. Raises ValueError if the name could leave the store."""
        return self.root / "studies" / require_name("study", name)

    @property
    def remembers(self) -> bool:
        """Whether the folder remembers an address of MLflow."""
        return bool(self._remembered())

    def forget(self) -> None:
        """Remember no address, for the one that was told just now was of no use."""
        self._tracking_file.unlink(missing_ok=True)

    def remember(self) -> None:
        """Write down the address of MLflow that was told, unless it is the store's own or known already."""
        if self.tracking is not None and not self.remembers and self.tracking_uri != self._own_uri:
            write_json(self._tracking_file, {"uri": self.tracking_uri, "store": uuid4().hex}, durable=True)

    def make_folders(self) -> None:
        """Create the folders of artifacts, caches and studies."""
        for folder in (self.artifacts, self.cache, self.root / "studies"):
            folder.mkdir(exist_ok=True)

    def exists(self) -> bool:
        """Whether a search has created this store, or a server is named that may hold one."""
        return self.on_server or self.database.is_file()

    def require_one_address(self) -> None:
        """Raises ValueError if the store tracks elsewhere already, or its database's folder does not exist."""
        remembered = self._remembered().get("uri") or (self._own_uri if database_of(self._own_uri).exists() else None)
        if remembered not in (None, self.tracking_uri):
            raise UserError(
                f"a store tracks in one place: {self.root} tracks at {remembered}, so its studies cannot go to "
                f"{self.tracking_uri}; choose another store (--store or ${ROOT_VARIABLE}), or, if MLflow has moved, "
                f"write that address into {self._tracking_file}"
            )
        if not self.on_server and self.database.parent != self.root and not self.database.parent.is_dir():
            raise UserError(f"a database lies in a folder that exists, which {self.database.parent} is not; make it")

    def require_writable(self) -> None:
        """Raises ValueError unless files can be created in the root, which is created if missing."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise UserError(
                f"the store must be a folder that can be written: {self.root}: {error.strerror or error}; "
                f"choose another with --store or ${ROOT_VARIABLE}"
            ) from None

    def require_exists(self) -> None:
        """Raises NoStoreError unless a search has created this store; a server is not asked here."""
        if self.on_server:
            return
        if not self.exists():
            raise NoStoreError(
                f"there is no store in {self.root}: it holds no {self.database.name}; "
                f"run `understudy search` first, or name the store with --store or ${ROOT_VARIABLE}"
            )
        self.require_sqlite()

    def require_sqlite(self) -> None:
        """Raises ValueError unless the database is an sqlite file: MLflow would try others for minutes."""
        try:
            # To write, if the file may be written: what a killed writer left half done is undone by the next who opens.
            with closing(sqlite3.connect(f"{self.database.as_uri()}?mode=rw", uri=True)) as connection:
                connection.execute("select count(*) from sqlite_master")
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"the store's database must be an sqlite file: {self.database}: {error}; move it away and search again"
            ) from None

    @property
    def _own_uri(self) -> str:
        return database_uri(self.root / "mlflow.db")

    @property
    def _tracking_file(self) -> Path:
        return self.root / "tracking.json"

    def _remembered(self) -> dict[str, Any]:
        return read_json(self._tracking_file) or {}
