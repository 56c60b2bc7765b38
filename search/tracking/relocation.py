# SPDX-License-Identifier: Apache-2.0
"""A store that was moved or copied: MLflow's database names folders of artifacts by absolute addresses.

Whoever opens a store at another place than the database says corrects those addresses, in one transaction, so that
MLflow reads and writes there and never in the store that was copied. Nothing else in a store is absolute.

A store that is opened by another path (a symbolic link, a mount) is not another place: its database is the same file.
While a search works on a store, no other process corrects it (`search.storage.lock.in_use`). A store that cannot be
written is left as it is; our own readers find the artifacts beside the database anyway (`search.tracking.artifacts`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from search.storage.lock import in_use, unused
from search.storage.store import Store
from search.storage.tracking_uri import path_of
from search.tracking.names import Tag
from spaces.errors import UserError

_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow's database that hold addresses of artifacts."""
_OF_STUDIES = """select name, artifact_location from experiments
where experiment_id in (select experiment_id from experiment_tags where key = ?)"""
_N_TRIES = 3
_WAIT_S = 10.0  # for another process that writes the database


def relocate(store: Store) -> None:
    """Corrects the database of a store that is at another place now, unless a search works on it or it is read-only."""
    if stale_addresses(store):
        with unused(store.root) as is_unused:
            if is_unused:
                _rewrite(store)


@contextmanager
def working_on(store: Store) -> Iterator[None]:
    """Within the block the addresses are those of this place, and no other process changes them.

    Raises ValueError if they cannot be corrected: a search works on the store by another path, or it is read-only. So
    it does if the store is a copy of another one that tracks on the same server.
    """
    store.require_no_copy()
    for _ in range(_N_TRIES):
        relocate(store)
        with in_use(store.root):
            stale = stale_addresses(store)
            if not stale:
                yield
                return
    raise UserError(
        f"the store {store.root} was moved or copied, and its database still names {' and '.join(sorted(stale))}: it "
        "cannot be corrected while a search works on it by that path, or without permission to write; wait, or stop it"
    )


def stale_addresses(store: Store) -> set[str]:
    """Addresses of folders of artifacts, in the store's own database, from which the store was moved or copied."""
    if store.on_server or store.database.parent != store.root or not store.database.is_file():
        return set()
    try:
        with closing(_connected(store)) as connection:
            rows = connection.execute(_OF_STUDIES, (Tag.STUDY,)).fetchall()
    except sqlite3.Error:
        return set()  # not a database of MLflow's: what opens it next says so
    held = {
        path.name
        for folder in (store.artifacts, store.root / "studies")
        if folder.is_dir()
        for path in folder.iterdir()
    }
    # Experiments of another store that tracks in this one's database are not this store's to correct.
    folders = {location.rpartition("/")[0] for name, location in rows if location and name in held}
    return {
        each
        for each in folders - {store.artifact_uri}
        if each.endswith(f"/{store.artifacts.name}") and was_place_of(store, path_of(each))
    }


def was_place_of(store: Store, artifacts: Path) -> bool:
    """Whether the store was in the place of this folder of artifacts before it was moved or copied.

    False for the store itself by another path, and for another store that tracks in this one's database.
    """
    database = artifacts.parent / store.database.name
    try:
        return not database.samefile(store.database) if database.is_file() else not artifacts.exists()
    except OSError:  # no permission to look there
        return True


def _rewrite(store: Store) -> None:
    """Replaces stale addresses in one transaction; leaves a database as it is that cannot be written."""
    new = store.artifact_uri
    try:
        with closing(_connected(store)) as connection, connection:
            connection.execute("begin immediate")
            tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
            for old in stale_addresses(store):
                for table, column in _ADDRESSES:
                    if table in tables:
                        connection.execute(
                            f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?",
                            (new, len(old) + 1, len(old) + 1, f"{old}/"),
                        )
    except sqlite3.OperationalError:  # read-only, or another process writes for longer than we wait
        return


def _connected(store: Store) -> sqlite3.Connection:
    """Opened for writing if possible, so that sqlite rolls back the transaction of a killed writer."""
    return sqlite3.connect(f"{store.database.as_uri()}?mode=rw", uri=True, timeout=_WAIT_S, isolation_level=None)
