# SPDX-License-Identifier: Apache-2.0
"""Disk space: what a search must find free before it begins, and how every command ends when none is left.

Every writer says it in its own words: the system by an error number, sqlite, MLflow and safetensors in a text, NumPy
by what it could not write, Ray in the text of an error from another process. So the whole chain of an error is read.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spaces.cost import cost
from spaces.errors import UserError
from spaces.student import StudentSpec

COPIES = 4
"""Of a student's weights in a checkpoint: weights, their average, and two moments of the optimiser."""

_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
_WORDS = re.compile(
    r"No space left on device|Disk quota exceeded|database or disk is full|\d+ requested and \d+ written"
)


class DiskFullError(UserError):
    """A disk is full; everything measured before is kept."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that a disk is full."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, OSError) and current.errno in _NUMBERS:
            return True
        if _WORDS.search(str(current)):
            return True
        queue += [current.__cause__, current.__context__]
    return False


@contextmanager
def disk_full_explained(*folders: Path) -> Iterator[None]:
    """Within the block every error that comes from a full disk becomes one DiskFullError, which says what to do.

    `folders` are where the block writes, as far as that is known.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        left = [f"{folder} ({_free(folder)} free)" for folder in dict.fromkeys(folders)]
        raise DiskFullError(
            f"no space left in {' or '.join(left) or 'the folder that is written'}: free some and run the command "
            "again; everything measured is kept"
        ) from error


def require_disk_space(folder: Path, spec: StudentSpec, *, n_workers: int) -> None:
    """Raises DiskFullError unless every worker could save a student as large as `spec`: the least that is needed."""
    n_bytes = n_workers * COPIES * cost(spec).n_bytes
    if _free_bytes(folder) < n_bytes:
        raise DiskFullError(
            f"a search saves {n_workers} students at a time, {n_bytes / 1e6:,.0f} MB if they are large: "
            f"{_free(folder)} are free in {folder}; free some, or choose another folder (--store)"
        )


def _free(folder: Path) -> str:
    return f"{_free_bytes(folder) / 1e6:,.1f} MB"


def _free_bytes(folder: Path) -> int:
    """Where the folder is, or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
