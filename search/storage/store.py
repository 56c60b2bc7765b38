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

import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from search.storage.atomic import read_json, write_json
from search.storage.environ import environment
from search.tracking.errors import (
    ANSWER_S,
    TrackingError,
    database_of,
    database_uri,
    is_server,
    reason_of,
    require_tracking_uri,
    tracking_errors,
)
from spaces.fields import require_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_ROOT = "understudy-store"
ROOT_VARIABLE = "UNDERSTUDY_STORE"

# Read by MLflow, partly when it is imported: no telemetry, no pickle is loaded, nothing drawn on the terminal, and no
# minutes of retries (see search.tracking.errors). An upload is one request, and must end in the time of one.
_MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}


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
            raise ValueError(
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

    def exists(self) -> bool:
        """Whether a search has created this store, or a server is named that may hold one."""
        return self.on_server or self.database.is_file()

    def create(self) -> Store:
        """This store with its folders, and with a writable, migrated database or a server that answers.

        Call it before any worker starts: migrations take seconds and would race. Raises ValueError if the
        folder cannot be written, or if `require_tracking` does.
        """
        self.require_writable()
        self.require_tracking()
        if self.exists() and not self.on_server:
            self._require_sqlite()
        for folder in (self.artifacts, self.cache, self.root / "studies"):
            folder.mkdir(exist_ok=True)
        if not self.exists():
            self._make_database()
        if self.tracking is not None and not self.remembers and self.tracking_uri != self._own_uri:
            write_json(self._tracking_file, {"uri": self.tracking_uri, "store": uuid4().hex})
        with self.reached() as client:
            client.search_experiments(max_results=1)
        return self

    def require_tracking(self) -> None:
        """Raises ValueError unless this store may track where it is told to, and an MLflow server there answers."""
        remembered = self._remembered().get("uri") or (self._own_uri if database_of(self._own_uri).exists() else None)
        if remembered not in (None, self.tracking_uri):
            raise ValueError(
                f"a store tracks in one place: {self.root} tracks at {remembered}, so its studies cannot go to "
                f"{self.tracking_uri}; choose another store (--store or ${ROOT_VARIABLE}), or, if MLflow has moved, "
                f"write that address into {self._tracking_file}"
            )
        if not self.on_server and self.database.parent != self.root and not self.database.parent.is_dir():
            raise ValueError(f"a database lies in a folder that exists, which {self.database.parent} is not; make it")
        if self.on_server:
            with environment({"MLFLOW_HTTP_REQUEST_TIMEOUT": str(ANSWER_S)}), self.reached() as client:
                client.search_experiments(max_results=1)

    def _make_database(self) -> None:
        """Elsewhere, and then put in its place: tables that a killed command half made could not be made again."""
        with tempfile.TemporaryDirectory(prefix=".database-", dir=self.database.parent) as folder:
            new = Store(Path(folder))
            new.client().search_experiments(max_results=1)
            with suppress(FileExistsError):  # another command was faster
                os.link(new.database, self.database)

    def require_writable(self) -> None:
        """Raises ValueError unless files can be created in the root, which is created if missing."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise ValueError(
                f"the store must be a folder that can be written: {self.root}: {error.strerror or error}; "
                f"choose another with --store or ${ROOT_VARIABLE}"
            ) from None

    def require_exists(self) -> None:
        """Raises ValueError unless a search has created this store; whether a server answers shows when it is asked."""
        if self.on_server:
            return
        if not self.exists():
            raise ValueError(
                f"there is no store in {self.root}: it holds no {self.database.name}; "
                f"run `understudy search` first, or name the store with --store or ${ROOT_VARIABLE}"
            )
        self._require_sqlite()

    def _require_sqlite(self) -> None:
        """MLflow would try such a database ten times, for minutes, before it said so."""
        try:
            # To write, if the file may be written: what a killed writer left half done is undone by the next who opens.
            with closing(sqlite3.connect(f"{self.database.as_uri()}?mode=rw", uri=True)) as connection:
                connection.execute("select count(*) from sqlite_master")
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"the store's database must be an sqlite file: {self.database}: {error}; move it away and search again"
            ) from None

    def client(self) -> MlflowClient:
        """An MLflow client of this store's database (imports MLflow on first use).

        Raises ValueError if another version of MLflow wrote the database.
        """
        _prepare_mlflow()
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            return MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
        except MlflowException as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"MLflow cannot open the store's database {self.database}: {reason}; if another MLflow wrote "
                f"it, copy it, then run `mlflow db upgrade {self.tracking_uri}`"
            ) from None

    @contextmanager
    def reached(self) -> Iterator[MlflowClient]:
        """A client; within the block a server that does not answer, or refuses, is a TrackingError that says so."""
        client = self.client()
        try:
            yield client
        except tracking_errors() as error:
            if not self.on_server:
                raise
            reason = reason_of(error)
            raise TrackingError(
                f"an MLflow server must answer at {self.tracking_uri}: {reason}; start it or correct the address, and "
                "give the same command again: what is measured is kept",
                reason=reason,
            ) from error

    @contextmanager
    def activated(self) -> Iterator[None]:
        """Within the block MLflow's global functions (`log_model`) use this store."""
        _prepare_mlflow()
        import mlflow

        names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")  # MLflow writes here what it is told, for its children
        previous = {name: os.environ.get(name) for name in names}
        mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_registry_uri(self.tracking_uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(previous[names[0]])  # type: ignore[arg-type]  # None: not set
            mlflow.set_registry_uri(previous[names[1]] or "")
            for name, value in previous.items():
                if value is None:
                    os.environ.pop(name, None)

    @property
    def _own_uri(self) -> str:
        return database_uri(self.root / "mlflow.db")

    @property
    def _tracking_file(self) -> Path:
        return self.root / "tracking.json"

    def _remembered(self) -> dict[str, Any]:
        return read_json(self._tracking_file) or {}


def _prepare_mlflow() -> None:
    """Set what MLflow reads from the environment, import it, and leave only its errors on stderr."""
    for name, value in _MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it shows what it raises, stack and all
