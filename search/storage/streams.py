# SPDX-License-Identifier: Apache-2.0
"""Files that a user names for input and output: `-` is the standard stream, and devices and pipes are written to.

Other files are replaced as a whole (`runtime.atomic`); a device or a pipe, as of a shell's `>(...)`, cannot be.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from runtime.atomic import atomic_file

STANDARD = Path("-")
"""Names standard input or standard output."""
_INPUTS = (STANDARD, Path("/dev/stdin"), Path("/dev/fd/0"), Path("/proc/self/fd/0"))
_OUTPUTS = (STANDARD, Path("/dev/stdout"), Path("/dev/fd/1"), Path("/proc/self/fd/1"))


def is_stdin(path: Path) -> bool:
    """Whether a path names standard input."""
    return path in _INPUTS


def is_stdout(path: Path) -> bool:
    """Whether a path names standard output."""
    return path in _OUTPUTS


def is_stream(path: Path) -> bool:
    """Whether a path names a standard stream, a device or a pipe, whose name says nothing about its content."""
    return is_stdin(path) or is_stdout(path) or (path.exists() and not path.is_file() and not path.is_dir())


@contextmanager
def opened_input(path: Path) -> Iterator[IO[bytes]]:
    """Yields a file, or standard input, open for reading bytes."""
    if is_stdin(path):
        yield sys.stdin.buffer
        return
    with path.open("rb") as file:
        yield file


@contextmanager
def opened_output(path: Path) -> Iterator[IO[bytes]]:
    """Yields what a path names, open for writing bytes; a regular file is replaced once the block has ended."""
    if is_stdout(path):
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    elif is_stream(path):
        with path.open("wb") as file:
            yield file
    else:
        with atomic_file(path, durable=False) as file:
            yield file
