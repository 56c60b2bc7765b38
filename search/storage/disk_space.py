# SPDX-License-Identifier: Apache-2.0
"""Disk space: the check before a search, and one error for every way in which a full disk shows.

Writers report a full disk differently: the operating system by errno, sqlite, MLflow and safetensors in the message,
NumPy by the number of items that it could not write, Ray in the message of an error from another process. So errno and
message of an error and of its causes are examined.
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

N_COPIES = 4
"""Copies of a student's weights in a checkpoint: weights, their average, and two moments of the optimiser."""

_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
_MESSAGES = re.compile(
    r"No space left on device|Disk quota exceeded|database or disk is full|\d+ requested and \d+ written"
)


class DiskFullError(UserError):
    """A disk is full; everything that was measured before is kept."""


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, each once."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            yield current
            queue += [current.__cause__, current.__context__]


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one of its causes, says that a disk is full."""
    return any(
        (isinstance(cause, OSError) and cause.errno in _ERRNOS) or _MESSAGES.search(str(cause))
        for cause in causes_of(error)
    )


@contextmanager
def disk_full_explained(*folders: Path) -> Iterator[None]:
    """Within the block every error that a full disk caused is raised as DiskFullError, with the remedy.

    `folders` are those in which the block writes, for the message.
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
    """Raises DiskFullError unless each of `n_workers` workers could save a checkpoint of such a student."""
    n_bytes = n_workers * N_COPIES * cost(spec).n_bytes
    if _free_bytes(folder) < n_bytes:
        raise DiskFullError(
            f"a search saves {n_workers} students at a time, {n_bytes / 1e6:,.0f} MB if they are large: "
            f"{_free(folder)} are free in {folder}; free some, or choose another folder (--store)"
        )


def _free(folder: Path) -> str:
    return f"{_free_bytes(folder) / 1e6:,.1f} MB"


def _free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
