# SPDX-License-Identifier: Apache-2.0
"""MLflow clients of a store, its database, and the environment variables that MLflow reads."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runtime.proxies import proxy_explained, variables_of
from search.storage.environ import environment
from search.storage.store import Store
from search.tracking.errors import ANSWER_S, TrackingError, reason_of, tracking_errors
from search.tracking.relocation import relocate
from spaces.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

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


def create_store(store: Store) -> Store:
    """Creates the store's folders and its migrated database, or checks that its server answers; returns the store.

    Call it before any worker starts: migrations take seconds and would race. Raises ValueError if the folder cannot be
    written, or if `require_tracking` does.
    """
    store.require_writable()
    require_tracking(store)
    if store.exists() and not store.on_server:
        store.require_sqlite()
    store.make_folders()
    if not store.exists():
        _make_database(store)
    store.write_tracking()
    with connected(store) as client:
        client.search_experiments(max_results=1)
    return store


def require_tracking(store: Store) -> None:
    """Raises ValueError unless the store may track at its address, and a server there answers within `ANSWER_S`."""
    store.require_one_address()
    if store.on_server:
        with environment({"MLFLOW_HTTP_REQUEST_TIMEOUT": str(ANSWER_S)}), connected(store) as client:
            client.search_experiments(max_results=1)


def client_of(store: Store) -> MlflowClient:
    """An MLflow client of a store's database (imports MLflow on first use).

    Raises ValueError if another version of MLflow wrote the database.
    """
    _prepare_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return MlflowClient(tracking_uri=store.tracking_uri, registry_uri=store.tracking_uri)
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"MLflow cannot open the store's database {store.database}: {reason}; if another MLflow wrote "
            f"it, copy it, then run `mlflow db upgrade {store.tracking_uri}`"
        ) from None


@contextmanager
def connected(store: Store) -> Iterator[MlflowClient]:
    """A client; within the block errors of a server that does not answer, or refuses, are raised as TrackingError."""
    relocate(store)
    client = client_of(store)
    try:
        yield client
    except tracking_errors() as error:
        if not store.on_server:
            raise
        host = urlsplit(store.tracking_uri).hostname or ""
        proxy = proxy_explained(host, variables=variables_of(store.tracking_uri))
        reason = reason_of(error) if proxy is None else f"{reason_of(error)} ({proxy})"
        raise TrackingError(
            f"an MLflow server must answer at {store.tracking_uri}: {reason}; start it or correct the address, and "
            "give the same command again: what is measured is kept",
            reason=reason,
        ) from error


@contextmanager
def activated(store: Store) -> Iterator[None]:
    """Within the block MLflow's global functions (`log_model`) use the store."""
    _prepare_mlflow()
    import mlflow

    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")  # MLflow writes here what it is told, for its children
    previous = {name: os.environ.get(name) for name in names}
    mlflow.set_tracking_uri(store.tracking_uri)
    mlflow.set_registry_uri(store.tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(previous[names[0]])  # type: ignore[arg-type]  # None: not set
        mlflow.set_registry_uri(previous[names[1]] or "")
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)


def _make_database(store: Store) -> None:
    """Creates the database in a temporary folder and links it into place, so that it is never incomplete."""
    with tempfile.TemporaryDirectory(prefix=".database-", dir=store.database.parent) as folder:
        new = Store(Path(folder))
        client_of(new).search_experiments(max_results=1)
        with suppress(FileExistsError):  # another command has created it meanwhile
            os.link(new.database, store.database)


def _prepare_mlflow() -> None:
    """Sets the environment variables that MLflow reads, imports it, and limits its logging to errors."""
    for name, value in _MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs the traceback of what it raises
