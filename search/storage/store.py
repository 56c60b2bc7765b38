# SPDX-License-Identifier: Apache-2.0
"""The store: the folder in which searches keep everything that they measure.

    STORE/mlflow.db           MLflow's tracking and registry database (sqlite)
    STORE/artifacts/          artifacts of runs and models
    STORE/tracking.json       address of MLflow, if a search was given one; a server keeps all of its data
    STORE/cache/              teachers' outputs, tokenised corpora, latency calibrations; may be deleted
    STORE/studies/NAME/       one study: Optuna's journal, checkpoints, student folders

All studies of a store are tracked at one address.

Use a local disk: sqlite and the study's lock are files that network file systems do not lock reliably.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing, suppress
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
    """There is no store in this folder."""


@dataclass(frozen=True, slots=True)
class Store:
    """The store in folder `root`; constructing it does not access the disk."""

    root: Path
    """Absolute folder."""
    tracking: str | None = None
    """Address of MLflow; None: the one in `tracking.json`, else the store's own database."""

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
        """MLflow's sqlite file; for a store that tracks on a server, a file that does not exist."""
        return self.root / "mlflow.db" if self.on_server else database_of(self.tracking_uri)

    @property
    def artifacts(self) -> Path:
        """Folder of the artifacts of runs and models."""
        return self.root / "artifacts"

    @property
    def cache(self) -> Path:
        """Folder of what can be computed again."""
        return self.root / "cache"

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking and registry address."""
        return self.tracking or self._stored_uri or self._own_uri

    @property
    def on_server(self) -> bool:
        """Whether this store tracks on a server, which then also keeps the artifacts."""
        return is_server(self.tracking_uri)

    @property
    def identity(self) -> str | None:
        """Id that distinguishes this store's studies from others of the same name; None without `tracking.json`."""
        found: str | None = self._read_tracking().get("store")
        return found

    @property
    def artifact_uri(self) -> str:
        """URI of the root of the artifacts."""
        return self.artifacts.as_uri()

    def study_folder(self, name: str) -> Path:
        """The folder of study `name`, not created. Raises ValueError if the name could leave the store."""
        return self.root / "studies" / require_name("study", name)

    @property
    def has_tracking_file(self) -> bool:
        """Whether the folder holds an address of MLflow (`tracking.json`)."""
        return bool(self._read_tracking())

    def delete_tracking(self) -> None:
        """Deletes the address that was just written, because the server did not work."""
        self._tracking_file.unlink(missing_ok=True)

    def write_tracking(self) -> None:
        """Writes the given address into `tracking.json`, unless it is the store's own or one is there already."""
        if self.tracking is not None and not self.has_tracking_file and self.tracking_uri != self._own_uri:
            self._write_tracking({"uri": self.tracking_uri, "store": uuid4().hex})

    def require_no_copy(self) -> None:
        """Raises ValueError if the store is a copy of one that is still there, and both track on one server.

        Both have one identity there, so the server could not tell their runs apart. A store that was moved goes on.
        """
        known = self._read_tracking()
        if not self.on_server or not known or known.get("root") == str(self.root):
            return
        if known.get("root") is None:  # of an older version
            with suppress(OSError):  # it must not be written
                self._write_tracking(known)
            return
        other = Store(Path(known["root"]))
        if other.identity == self.identity and not other._tracking_file.samefile(self._tracking_file):
            raise UserError(
                f"{self.root} is a copy of {other.root}, and both track at {self.tracking_uri}: search in one of them, "
                f"or delete {self._tracking_file}, give --tracking-uri again and another --name"
            )
        self._write_tracking(known)

    def make_folders(self) -> None:
        """Creates the folders of artifacts, caches and studies."""
        for folder in (self.artifacts, self.cache, self.root / "studies"):
            folder.mkdir(exist_ok=True)

    def exists(self) -> bool:
        """Whether the store's database exists, or the store tracks on a server, which is not asked."""
        return self.on_server or self.database.is_file()

    def require_one_address(self) -> None:
        """Raises ValueError if the store already tracks at another address, or its database's folder does not exist."""
        stored = self._stored_uri or (self._own_uri if database_of(self._own_uri).exists() else None)
        if stored not in (None, self.tracking_uri):
            raise UserError(
                f"a store tracks at one address: {self.root} tracks at {stored}, so its studies cannot go to "
                f"{self.tracking_uri}; choose another store (--store or ${ROOT_VARIABLE}), or, if MLflow has moved, "
                f"write that address into {self._tracking_file}"
            )
        if not self.on_server and self.database.parent != self.root and not self.database.parent.is_dir():
            raise UserError(f"the folder of a database must exist, and {self.database.parent} does not; create it")

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
        """Raises NoStoreError unless the store exists; a server is not asked here."""
        if self.on_server:
            return
        if not self.exists():
            raise NoStoreError(
                f"there is no store in {self.root}: it holds no {self.database.name}; "
                f"run `understudy search` first, or name the store with --store or ${ROOT_VARIABLE}"
            )
        self.require_sqlite()

    def require_sqlite(self) -> None:
        """Raises ValueError unless the database is an sqlite file: MLflow would retry for minutes."""
        try:
            # Opened for writing if possible, so that sqlite rolls back the transaction of a killed writer.
            with closing(sqlite3.connect(f"{self.database.as_uri()}?mode=rw", uri=True)) as connection:
                connection.execute("select count(*) from sqlite_master")
        except sqlite3.DatabaseError as error:
            if not os.access(self.database, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
                raise UserError(
                    f"the store's database must be readable, and {self.database} is not for this user; change its "
                    "owner or permissions"
                ) from None
            raise UserError(
                f"the store's database must be an sqlite file: {self.database}: {error}; move it away and search again"
            ) from None

    @property
    def _stored_uri(self) -> str | None:
        """The address in `tracking.json`; of a database that lies in the store, at the store's present place."""
        stored: str | None = self._read_tracking().get("uri")
        if stored is not None and not is_server(stored):
            own = self.root / database_of(stored).name
            if own.is_file():
                return database_uri(own)
        return stored

    @property
    def _own_uri(self) -> str:
        return database_uri(self.root / "mlflow.db")

    @property
    def _tracking_file(self) -> Path:
        return self.root / "tracking.json"

    def _write_tracking(self, document: dict[str, Any]) -> None:
        write_json(self._tracking_file, {**document, "root": str(self.root)}, durable=True)

    def _read_tracking(self) -> dict[str, Any]:
        return read_json(self._tracking_file) or {}
