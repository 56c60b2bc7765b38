# SPDX-License-Identifier: Apache-2.0
"""The memory that a trial may take, kept by the operating system: an allocation beyond it fails, and with it the trial.

The limit is on a process's private writable memory (RLIMIT_DATA, which Linux counts since 4.7): mapped files, such as
the teacher's outputs, and the object store that workers share are not in it. What the worker holds when its trial
begins is added to the limit, so it is the trial's own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spaces.errors import UserError

GIB = 1 << 30
_STATUS = Path("/proc/self/status")
_SIGNS = ("can't allocate memory", "cannot allocate memory", "bad_alloc", "bad allocation", "can't start new thread")


def require_memory_limits() -> None:
    """Raises ValueError where the operating system keeps no such limit."""
    if sys.platform != "linux":
        raise UserError(
            f"trial_memory_gib is kept on Linux only, and this is {sys.platform}; leave it out, or search on Linux"
        )


def limit_memory(n_bytes: int | None) -> None:
    """From now on this process may take so many bytes beyond what it has now; None: as many as there are.

    A limit set by others, which no process may raise, stays as it is where it is lower. Linux only.
    """
    if n_bytes is None and sys.platform != "linux":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = resource.RLIM_INFINITY if n_bytes is None else _private_bytes() + n_bytes
    if hard != resource.RLIM_INFINITY and (wanted == resource.RLIM_INFINITY or wanted > hard):
        wanted = hard
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


@contextmanager
def limited_memory(gib: float | None) -> Iterator[None]:
    """Within the block this process may take so many GiB beyond what it has now; None: as many as there are."""
    limit_memory(None if gib is None else int(gib * GIB))
    try:
        yield
    finally:
        limit_memory(None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory could not be had; torch and its libraries say so in words."""
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in message for sign in _SIGNS)


def _private_bytes() -> int:
    """Private writable memory of this process, as its limit counts it."""
    found = re.search(r"^VmData:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    assert found is not None, "Linux writes VmData for every process"
    return int(found[1]) * 1024
