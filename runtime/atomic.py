# SPDX-License-Identifier: Apache-2.0
"""Atomic replacement of files and folders; everything that this project replaces on disk goes through here.

Everything is first written beside its destination, under a hidden name, and renamed once it is complete. So a reader,
and a command that is killed at any moment, finds the old content or the new one.

Surviving a power failure also needs an fsync. Results that cannot be recomputed cheaply (measurements, decisions,
finished trainings) and files whose damage cannot be detected (arrays) are written with `durable=True`. Files that the
same command would write again (calibrations, checkpoints between rungs, pages and tables) are written with
`durable=False`, and their readers treat a damaged file as missing.
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
    """Yields a temporary path beside `path`; what the block creates there replaces `path` when the block ends.

    `path` is unchanged if the block raises or creates nothing. The folder of `path` is created.
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

    A folder that holds files, or anything of the other kind, cannot be renamed over and is moved aside first: a command
    that is killed in between leaves no `path`, but never a partial one. Without `may_replace` anything but an
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
    """Yields a file, open for writing bytes, that replaces `path` when the block ends without an error."""
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
