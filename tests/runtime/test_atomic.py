# SPDX-License-Identifier: Apache-2.0
"""Claims about files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.atomic import atomic_file, atomic_path, move_into_place, read_json, write_bytes, write_json, write_text
from tests.search.full_disk import largest_file

BOTH = pytest.mark.parametrize("durable", [False, True])


def names(folder: Path) -> set[str]:
    """All that lies in a folder, hidden files included."""
    return {path.name for path in folder.iterdir()}


@BOTH
def test_what_is_written_is_read_and_nothing_else_is_left(durable: bool, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    write_bytes(folder / "bytes", b"\x00\xff", durable=durable)
    write_text(folder / "text", "größer", durable=durable)
    write_json(folder / "json", {"a": [1, None]}, durable=durable)
    assert (folder / "bytes").read_bytes() == b"\x00\xff"
    assert (folder / "text").read_text("utf-8") == "größer"
    assert read_json(folder / "json") == {"a": [1, None]}
    assert names(folder) == {"bytes", "text", "json"}


@BOTH
def test_an_error_leaves_what_was_there(durable: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(path, durable=durable) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
        raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == {"file"}


def test_a_block_that_makes_nothing_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with atomic_path(tmp_path / "file", durable=True):
        pass
    assert (tmp_path / "file").read_text() == "old" and names(tmp_path) == {"file"}


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with largest_file(1000), pytest.raises(OSError, match="File too large"):
        write_bytes(path, b"x" * 5000, durable=False)
    assert path.read_text() == "old" and names(tmp_path) == {"file"}


def test_a_file_that_is_no_json_is_not_written(tmp_path: Path) -> None:
    write_json(tmp_path / "json", {"a": 1}, durable=True)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "json", {"a": float("nan")}, durable=True)
    assert read_json(tmp_path / "json") == {"a": 1}


@pytest.mark.parametrize("text", [None, "", '{"a": ', "[1]", "\xff"])
def test_a_broken_json_file_reads_as_none(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "json").write_text(text, encoding="latin-1")
    assert read_json(tmp_path / "json") is None


@BOTH
@pytest.mark.parametrize("before", ["nothing", "an empty folder", "a folder with files", "a file"])
@pytest.mark.parametrize("is_folder", [False, True])
def test_a_file_or_folder_takes_the_place_of_whatever_is_there(
    durable: bool, before: str, is_folder: bool, tmp_path: Path
) -> None:
    path = tmp_path / "it"
    if "folder" in before:
        path.mkdir()
    if before == "a folder with files":
        (path / "old").write_text("old")
    if before == "a file":
        path.write_text("old")
    with atomic_path(path, durable=durable) as new:
        if is_folder:
            (new / "inside").mkdir(parents=True)
            (new / "inside" / "file").write_text("new")
        else:
            new.write_text("new")
    assert ((path / "inside" / "file") if is_folder else path).read_text() == "new"
    assert names(tmp_path) == {"it"} and not (path / "old").exists()


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_may_not_be_replaced_is_not(is_folder: bool, tmp_path: Path) -> None:
    new, path, empty = tmp_path / "new", tmp_path / "it", tmp_path / "empty"
    if is_folder:
        for folder in (new, path):
            folder.mkdir()
            (folder / "file").write_text(folder.name)
    else:
        new.write_text("new")
        path.write_text("it")
    with pytest.raises(FileExistsError, match="choose another name"):
        move_into_place(new, path, durable=False, may_replace=False)
    assert (path / "file" if is_folder else path).read_text() == "it"
    empty.mkdir()
    move_into_place(new, empty, durable=False, may_replace=False)
    assert (empty / "file" if is_folder else empty).read_text() == "new"


def test_a_folder_is_not_lost_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it"
    path.mkdir()
    (path / "file").write_text("old")
    rename, n = os.replace, 0

    def fails_second(source: Path, target: Path) -> None:
        nonlocal n
        n += 1
        if n == 2:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fails_second)
    with pytest.raises(OSError, match="Input/output"), atomic_path(path, durable=False) as new:
        new.mkdir()
    assert (path / "file").read_text() == "old" and names(tmp_path) == {"it"}


def test_a_new_file_has_the_rights_of_an_ordinary_one(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_text("")
    write_text(tmp_path / "file", "", durable=False)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)


def test_a_writer_that_is_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    program = (
        "import itertools, sys; from pathlib import Path; from runtime.atomic import write_bytes\n"
        "for i in itertools.count(): write_bytes(Path(sys.argv[1]), bytes([i % 256]) * 100_000, durable=False)"
    )
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=Path(__file__).parents[2])
        known = path.stat().st_mtime_ns if path.exists() else None
        while not path.exists() or path.stat().st_mtime_ns == known:
            assert writer.poll() is None
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        content = path.read_bytes()
        assert len(content) == 100_000 and len(set(content)) == 1
