# SPDX-License-Identifier: Apache-2.0
"""Files and folders that are there whole or not at all: the one place that puts a new one where an old one was.

Everything is first written beside its destination, under a hidden name, and renamed once it is whole. So a reader,
and a command that is killed at any moment, finds the old content or the new one.

A power failure is another matter, and costs an fsync. The policy: what was measured, decided or trained to its end, and
what nobody can see to be damaged (arrays), is written with `durable=True` and survives one. What the same command makes
again (calibrations, checkpoints between rungs, what is shown to people) is written with `durable=False`, and its
readers take a broken file for a missing one.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4


@contextmanager
def atomic_path(path: Path, *, durable: bool) -> Iterator[Path]:
    """A free path beside `path`: the file or folder that the block makes there takes the place of `path` at its end.

    Nothing happens to `path` if the block raises, or makes nothing. The folder of `path` is created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        if temporary.exists():
            move_into_place(temporary, path, durable=durable)
    finally:
        _remove(temporary)


def move_into_place(new: Path, path: Path, *, durable: bool, may_replace: bool = True) -> None:
    """Rename a finished file or folder, of the same file system, to `path`.

    A folder that holds files, or anything of the other kind, cannot be renamed over and steps aside first: a command
    that is killed in that instant leaves no `path`, but never a half of one. Without `may_replace` anything but an
    empty folder at `path` raises FileExistsError.
    """
    is_empty_folder = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    if not may_replace and os.path.lexists(path) and not is_empty_folder:
        raise _exists(path)
    if durable:
        _flush_tree(new)
    if is_empty_folder and not new.is_dir():
        path.rmdir()
    is_other_kind = os.path.lexists(path) and path.is_dir() != new.is_dir()
    if may_replace and (is_other_kind or (path.is_dir() and any(path.iterdir()))):
        _swap(new, path)
    else:
        try:
            os.replace(new, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise _exists(path) from None  # a folder that another process has filled meanwhile
    if durable:
        _flush(path.parent)


@contextmanager
def atomic_file(path: Path, *, durable: bool) -> Iterator[IO[bytes]]:
    """A file, open for writing bytes, that takes the place of `path` when the block ends without an error."""
    with atomic_path(path, durable=durable) as temporary, temporary.open("xb") as file:
        yield file


def write_bytes(path: Path, content: bytes, *, durable: bool) -> None:
    """Replace a file's content."""
    with atomic_file(path, durable=durable) as file:
        file.write(content)


def write_text(path: Path, text: str, *, durable: bool) -> None:
    """Replace a file's content by text in UTF-8."""
    write_bytes(path, text.encode("utf-8"), durable=durable)


def write_json(path: Path, document: Mapping[str, Any], *, durable: bool) -> None:
    """Replace a file's content by a JSON object. Raises ValueError or TypeError for what JSON cannot hold."""
    write_text(path, json.dumps(document, indent=1, allow_nan=False), durable=durable)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no file, or no object in it, as a power failure may leave it."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex}")


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "nothing is replaced here; choose another name, or remove it", str(path))


def _swap(new: Path, path: Path) -> None:
    """Rename what is at `path` aside, and back if the new one cannot take its place."""
    old = _beside(path)
    os.replace(path, old)
    try:
        os.replace(new, path)
    except BaseException:
        os.replace(old, path)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush_tree(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _flush_tree(child)
    _flush(path)


def _flush(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
