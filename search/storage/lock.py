# SPDX-License-Identifier: Apache-2.0
"""Locks of a study: one command at a time works on it, and others can read which.

A lock is an `flock` on a file in the study's folder, so the operating system releases it when its process ends for any
reason. The file's text names the process that took it last.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from spaces.errors import UserError

COMMAND = "run.lock"
"""Held by a command from its beginning to its end."""
TRIALS = "search.lock"
"""Held by the one search that writes trials."""

STORE = "store.lock"
"""Shared by the searches that work on a store, whatever their study; held alone by who changes its addresses."""

_N_ATTEMPTS = 10  # `holder_of` in another process takes the lock for a moment
_ATTEMPT_EVERY_S = 0.05


@contextmanager
def exclusive(folder: Path, *, lock: str = TRIALS) -> Iterator[None]:
    """Within the block no other process holds this lock of the study. Raises ValueError if one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / lock).open("a+", encoding="utf-8") as file:
        for _ in range(_N_ATTEMPTS):
            if _try_lock(file, fcntl.LOCK_EX):
                break
            time.sleep(_ATTEMPT_EVERY_S)
        else:
            raise UserError(
                f"one search at a time writes a study: {_holder(file)} works on {folder}; wait, stop it, follow it "
                f"with `understudy watch {folder.name}`, or give this one another --name"
            )
        file.truncate(0)
        begun = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()} (begun {begun})")
        file.flush()
        yield


def holder_of(folder: Path, *, lock: str = COMMAND) -> str | None:
    """Process id, host and start time of the holder of a lock of the study, as text; None if no process holds it."""
    try:
        with (folder / lock).open(encoding="utf-8") as file:
            return None if _try_lock(file, fcntl.LOCK_SH) else _holder(file)
    except FileNotFoundError:
        return None


@contextmanager
def in_use(root: Path) -> Iterator[None]:
    """Within the block `unused` is false for the store in this folder, in every process."""
    with (root / STORE).open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def unused(root: Path) -> Iterator[bool]:
    """Yields whether no search works on the store in this folder; then none begins within the block.

    False as well for a folder that cannot be written.
    """
    try:
        file = (root / STORE).open("a", encoding="utf-8")
    except OSError:
        yield False
        return
    with file:
        yield _try_lock(file, fcntl.LOCK_EX)


def _try_lock(file: IO[str], operation: int) -> bool:
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read() or "another process"
