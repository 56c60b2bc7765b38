# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from search.storage.store import Store
from search.tracking.client import activated, client_of, create_store
from tests.search.full_disk import largest_file


def test_the_default_is_the_variable_then_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNDERSTUDY_STORE", raising=False)
    assert Store.default().root == tmp_path / "understudy-store"
    monkeypatch.setenv("UNDERSTUDY_STORE", "elsewhere")
    assert Store.default().root == tmp_path / "elsewhere"


def test_making_the_value_touches_no_disk(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    assert not store.exists()
    assert list(tmp_path.iterdir()) == []


def test_paths_are_absolute_wherever_the_process_goes_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(Path("relative"))
    monkeypatch.chdir("/")
    assert store.database == tmp_path / "relative" / "mlflow.db"
    assert store.tracking_uri == f"sqlite:///{tmp_path}/relative/mlflow.db"
    assert store.artifact_uri == f"file://{tmp_path}/relative/artifacts"


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "a..b", "x" * 101])
def test_a_study_cannot_leave_the_store(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="study"):
        Store(tmp_path).study_folder(name)


def test_a_study_has_its_folder(tmp_path: Path) -> None:
    assert Store(tmp_path).study_folder("quickstart-2") == tmp_path / "studies" / "quickstart-2"


@pytest.mark.parametrize("name", ["what?", "100%25"])
def test_a_path_that_cannot_be_a_database_address_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must not hold"):
        Store(tmp_path / name)


def test_a_file_in_its_place_is_an_unwritable_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must be a folder that can be written"):
        create_store(Store(tmp_path / "file"))
    with pytest.raises(ValueError, match="must be a folder that can be written"):
        Store(tmp_path / "file" / "below").require_writable()


def test_a_folder_without_rights_is_an_unwritable_store(tmp_path: Path) -> None:
    root = Path("/proc/understudy") if os.geteuid() == 0 else tmp_path / "locked"
    if os.geteuid() != 0:
        root.mkdir(mode=0o500)
    with pytest.raises(ValueError, match="must be a folder that can be written"):
        Store(root).require_writable()


def test_a_store_that_no_search_created_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no store"):
        Store(tmp_path).require_exists()
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_none_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is not a database at all" * 100)
    for check in (Store.require_exists, create_store):
        with pytest.raises(ValueError, match="must be an sqlite file"):
            check(Store(tmp_path))


WRITER = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("create table a (b)")
connection.execute("pragma cache_size = 1")
connection.execute("begin")
connection.executemany("insert into a values (?)", [("c" * 1000,)] * 1000)
os._exit(9)
"""


def test_a_database_whose_writer_was_killed_is_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert subprocess.run([sys.executable, "-c", WRITER, str(store.database)]).returncode == 9
    assert (tmp_path / "mlflow.db-journal").stat().st_size > 0
    store.require_exists()
    with closing(sqlite3.connect(store.database)) as connection:
        assert connection.execute("select count(*) from a").fetchone() == (0,)


def test_activating_a_store_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    store = Store(tmp_path)
    with activated(store):
        assert mlflow.get_tracking_uri() == mlflow.get_registry_uri() == store.tracking_uri
    assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == before
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert "MLFLOW_REGISTRY_URI" not in os.environ
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


@pytest.mark.slow
@pytest.mark.parametrize("n_bytes", [0, 100_000])
def test_a_store_whose_creation_failed_halfway_can_be_created(tmp_path: Path, n_bytes: int) -> None:
    store = Store(tmp_path / "store")
    with largest_file(n_bytes), pytest.raises((OSError, SQLAlchemyError)):
        create_store(store)
    assert not store.exists()
    assert client_of(create_store(store)).search_experiments(max_results=1)
    assert sorted(path.name for path in store.root.iterdir()) == ["artifacts", "cache", "mlflow.db", "studies"]


@pytest.mark.slow
def test_a_database_that_cannot_be_written_raises_and_prints_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = client_of(create_store(Store(tmp_path / "store")))
    with largest_file(0), pytest.raises(MlflowException):
        client.create_experiment("a")
    assert capsys.readouterr() == ("", "")
