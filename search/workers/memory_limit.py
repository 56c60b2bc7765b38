# SPDX-License-Identifier: Apache-2.0
"""Memory limits of trials, enforced by the operating system: an allocation beyond the limit fails.

The limit is on a process's private writable memory (RLIMIT_DATA, which Linux counts since 4.7): mapped files, such as
the teacher's outputs, and the shared object store do not count. The memory that a worker holds when its trial begins is
added to the limit, so the limit is for the trial alone.
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
_MESSAGES = ("can't allocate memory", "cannot allocate memory", "bad_alloc", "bad allocation", "can't start new thread")


def require_memory_limits() -> None:
    """Raises ValueError on an operating system that does not enforce such limits."""
    if sys.platform != "linux":
        raise UserError(
            f"trial_memory_gib is enforced on Linux only, and this is {sys.platform}; leave it out, or search on Linux"
        )


def limit_memory(n_bytes: int | None) -> None:
    """Limits this process to `n_bytes` more than it holds now; None removes the limit.

    A lower hard limit, which a process may not raise, stays. Linux only.
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
    """Within the block this process is limited to `gib` GiB more than it holds now; None: no limit."""
    limit_memory(None if gib is None else int(gib * GIB))
    try:
        yield
    finally:
        limit_memory(None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation failed; torch and its libraries say so only in their messages."""
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(text in message for text in _MESSAGES)


def _private_bytes() -> int:
    """Private writable memory of this process (VmData), as RLIMIT_DATA counts it."""
    found = re.search(r"^VmData:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    assert found is not None, "Linux writes VmData for every process"
    return int(found[1]) * 1024
