# SPDX-License-Identifier: Apache-2.0
"""Claims about stores that were moved or copied: each reads and writes its own files."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.folder import student_digest
from search.report.page import report_html
from search.storage.lock import in_use
from search.storage.store import Store
from search.tracking.client import activated, client_of, create_store
from search.tracking.experiment import study_experiment
from search.tracking.publish import register_front
from search.tracking.registry import load_front, resolve_model, versions_of
from search.tracking.relocation import relocate, stale_addresses, working_on
from search.tracking.select import select
from tests.search.cli_world import Bench, entry, make_bench, write_student


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("made #1 \u00e9"))


@pytest.fixture
def original(made: Bench, tmp_path: Path) -> Store:
    """A store of its own for a test, which was there all the time."""
    store = Store(tmp_path / "the original")
    shutil.copytree(made.store.root, store.root)
    relocate(store)
    return store


def addresses(store: Store) -> set[str]:
    """All that MLflow's database says of places, by a look into every column of every table."""
    found = set()
    with closing(sqlite3.connect(store.database)) as connection:
        for (table,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall():
            for _, column, *_ in connection.execute(f"pragma table_info({table})").fetchall():
                rows = connection.execute(f"select {column} from {table} where {column} like '%/artifacts/toy%'")
                found |= {value for (value,) in rows.fetchall()}
    return found


def copied(store: Store, root: Path) -> Store:
    shutil.copytree(store.root, root, symlinks=True)
    return Store(root)


def moved(store: Store, root: Path) -> Store:
    store.root.rename(root)
    return Store(root)


def embedded(store: Store) -> np.ndarray:
    """By MLflow alone, as docs/commands.md says."""
    import mlflow

    with activated(store):
        vectors: np.ndarray = mlflow.pyfunc.load_model("models:/toy@fastest").predict(["one sentence"])
    return vectors


@pytest.mark.parametrize("put", [copied, moved])
def test_a_store_at_another_place_names_its_own_files(
    original: Store, tmp_path: Path, put: Callable[[Store, Path], Store]
) -> None:
    expected, before = embedded(original), addresses(original)
    store = put(original, tmp_path / "another place #2 \u00e9")
    assert stale_addresses(store) == {original.artifact_uri}
    assert [student.name for student in load_front(store, "toy").students] == ["trial-0001", "trial-0002"]
    assert all(each.startswith(f"{store.artifact_uri}/") for each in addresses(store))
    assert len(addresses(store)) == len(before)
    assert stale_addresses(store) == set()
    np.testing.assert_array_equal(embedded(store), expected)
    if put is copied:
        assert addresses(original) == before


def test_a_store_that_was_moved_back_is_what_it_was(original: Store, tmp_path: Path) -> None:
    before = addresses(original)
    there = moved(original, tmp_path / "there")
    load_front(there, "toy")
    back = moved(there, original.root)
    load_front(back, "toy")
    assert addresses(back) == before


def test_a_copy_reads_its_own_files_not_the_original_s(original: Store, tmp_path: Path) -> None:
    write_student(tmp_path / "changed", _spec(original), seed=9)
    store = copied(original, tmp_path / "copy")
    own = resolve_model(store, "toy@fastest")
    assert own.is_relative_to(store.root)
    assert resolve_model(original, "toy@fastest").is_relative_to(original.root)
    shutil.copyfile(tmp_path / "changed" / "model.safetensors", own / "model.safetensors")
    assert student_digest(resolve_model(store, "toy@fastest")) == student_digest(tmp_path / "changed")
    assert student_digest(resolve_model(original, "toy@fastest")) != student_digest(tmp_path / "changed")
    assert not np.allclose(embedded(store), embedded(original))


def _spec(store: Store):  # type: ignore[no-untyped-def]
    from spaces.student import StudentSpec

    return StudentSpec.from_json(dict(load_front(store, "toy").students[0].spec))


def test_what_a_copy_lacks_is_not_taken_from_the_original(original: Store, tmp_path: Path) -> None:
    store = copied(original, tmp_path / "copy")
    for folder in (store.artifacts / "toy").iterdir():
        shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"are not in .*copy/artifacts: .*copy the whole store again"):
        load_front(store, "toy")
    with pytest.raises(ValueError, match="copy the whole store again"):
        resolve_model(store, "toy@fastest")


def test_another_path_to_the_store_is_no_other_place(original: Store, tmp_path: Path) -> None:
    before = addresses(original)
    (tmp_path / "link").symlink_to(original.root)
    linked = Store(tmp_path / "link")
    assert stale_addresses(linked) == set()
    assert load_front(linked, "toy").students == load_front(original, "toy").students
    with working_on(linked):
        study_experiment(linked, "toy")
    np.testing.assert_array_equal(embedded(linked), embedded(original))
    assert addresses(original) == before


def test_a_store_that_cannot_be_written_is_read_as_it_is(original: Store, tmp_path: Path) -> None:
    store = copied(original, tmp_path / "copy")
    (store.root / "store.lock").unlink(missing_ok=True)
    (store.root / "store.lock").mkdir()  # nobody can open it for writing, not even root
    before = store.database.read_bytes()
    assert len(load_front(store, "toy").students) == 2
    assert resolve_model(store, "toy@fastest").is_relative_to(store.root)
    assert store.database.read_bytes() == before


def test_nobody_changes_addresses_while_a_search_works_on_the_store(original: Store, tmp_path: Path) -> None:
    store = copied(original, tmp_path / "copy")
    before = addresses(store)
    with in_use(store.root):
        assert resolve_model(store, "toy@fastest").is_relative_to(store.root)
        assert addresses(store) == before
        refused = pytest.raises(ValueError, match=r"moved or copied, and its database still names .*the%20original")
        with refused, working_on(store):
            pass
    with working_on(store), working_on(store):  # two searches of other studies
        assert stale_addresses(store) == set()


@pytest.mark.slow
def test_both_go_on_at_once(original: Store, tmp_path: Path) -> None:
    store = copied(original, tmp_path / "copy")
    with working_on(original), working_on(store):
        for number, each in enumerate((store, original, store, original)):
            front = load_front(each, "toy")
            name = f"trial-{number + 10:04}"
            spec = _spec(each)
            write_student(tmp_path / name, spec, seed=number + 10)
            faster = entry(name, spec, latency_ms=0.01 / (number + 1), cosine=0.81 + 0.01 * number)
            folders = {student.name: resolve_model(each, student.uri or "") for student in front.students}
            front = replace(front, students=(*front.students, faster))
            register_front(each, front, page=report_html, folders=folders | {name: tmp_path / name})
            assert select(each, "toy", max_latency_ms=faster.latency_ms).name == name
    for each in (original, store):
        assert len(versions_of(client_of(each), "toy")) == 4
        assert all(address.startswith(f"{each.artifact_uri}/") for address in addresses(each))
        for version in range(1, 5):
            assert resolve_model(each, f"toy/{version}").is_relative_to(each.root)


def test_another_store_in_the_same_database_keeps_its_place(original: Store, tmp_path: Path) -> None:
    other = create_store(Store(tmp_path / "other", f"sqlite:///{original.database}"))
    study_experiment(other, "theirs")
    relocate(original)
    experiment = client_of(original).get_experiment_by_name("theirs")
    assert experiment.artifact_location == f"{other.artifact_uri}/theirs"
    assert len(load_front(other, "toy").students) == 2  # and reads what is in the first one's folder
    with pytest.raises(ValueError, match="belong to the store that made it"):
        study_experiment(other, "toy")


def test_another_store_in_the_same_database_keeps_its_place_while_its_disk_is_away(
    original: Store, tmp_path: Path
) -> None:
    other = create_store(Store(tmp_path / "other", f"sqlite:///{original.database}"))
    study_experiment(other, "theirs")
    (tmp_path / "other").rename(tmp_path / "unmounted")
    relocate(original)
    assert client_of(original).get_experiment_by_name("theirs").artifact_location == f"{other.artifact_uri}/theirs"


@pytest.mark.slow  # creating a database takes seconds
@pytest.mark.parametrize("name", ["tracking.db", "mlflow.db"])
def test_a_database_of_another_name_in_the_store_goes_with_it(tmp_path: Path, name: str) -> None:
    root = tmp_path / "first"
    root.mkdir()
    first = create_store(Store(root, f"sqlite:///{root / name}"))
    study_experiment(first, "toy")
    first.study_folder("toy").mkdir(parents=True)  # as a search makes it first
    store = copied(first, tmp_path / "second")
    assert store.database == store.root / name
    study_experiment(create_store(store), "more")
    assert client_of(first).get_experiment_by_name("more") is None
    relocate(store)
    assert client_of(store).get_experiment_by_name("toy").artifact_location == f"{store.artifact_uri}/toy"
    assert client_of(first).get_experiment_by_name("toy").artifact_location == f"{first.artifact_uri}/toy"


def test_a_copy_does_not_write_to_the_original_s_server(tmp_path: Path) -> None:
    server = "http://127.0.0.1:9"  # which nobody asks
    original = Store(tmp_path / "original", server)
    original.root.mkdir()
    original.write_tracking()
    with working_on(Store(original.root)):
        pass
    store = copied(original, tmp_path / "copy")
    refused = pytest.raises(ValueError, match=r"copy is a copy of .*original, and both track at .*another --name")
    with refused, working_on(store):
        pass
    (tmp_path / "link").symlink_to(original.root)
    with working_on(Store(tmp_path / "link")):
        pass
    shutil.rmtree(original.root)
    with working_on(store):  # it is the only one
        pass
    assert json.loads((store.root / "tracking.json").read_text())["root"] == str(store.root)


def test_a_copy_of_an_older_store_does_not_write_to_its_server_either(tmp_path: Path) -> None:
    """Older versions wrote no `root`; the next search records it."""
    original = Store(tmp_path / "original")
    original.root.mkdir()
    older = {"uri": "http://127.0.0.1:9", "store": "0" * 32}
    (original.root / "tracking.json").write_text(json.dumps(older))
    original.require_no_copy()
    assert json.loads((original.root / "tracking.json").read_text()) == older | {"root": str(original.root)}
    store = copied(original, tmp_path / "copy")
    with pytest.raises(ValueError, match=r"copy is a copy of .*original"):
        store.require_no_copy()


def test_a_store_that_was_given_a_server_just_now_has_no_root_yet(tmp_path: Path) -> None:
    store = Store(tmp_path, "http://127.0.0.1:9")
    store.require_no_copy()
    assert not store.has_tracking_file


def test_a_copy_with_an_identity_of_its_own_goes_on(tmp_path: Path) -> None:
    original = Store(tmp_path / "original", "http://127.0.0.1:9")
    original.root.mkdir()
    original.write_tracking()
    store = copied(original, tmp_path / "copy")
    (store.root / "tracking.json").unlink()
    store = Store(store.root, original.tracking)
    store.write_tracking()
    with working_on(store):
        assert store.identity != original.identity


def test_what_is_no_database_of_mlflow_names_no_place(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert stale_addresses(store) == set()
    (tmp_path / "mlflow.db").write_text("text")
    assert stale_addresses(store) == set()
    relocate(store)
    assert (tmp_path / "mlflow.db").read_text() == "text"
