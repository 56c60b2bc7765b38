# SPDX-License-Identifier: Apache-2.0
"""Who works on a study: one command at a time, which others can ask for.

The lock is the operating system's, on a file in the study's folder, so it ends with the process that holds it, however
that ends. The file says who took it last.
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

_TRIES = 10  # one who asks who holds the lock holds it for an instant
_TRY_EVERY_S = 0.05


@contextmanager
def exclusive(folder: Path, *, lock: str = TRIALS) -> Iterator[None]:
    """Within the block no other process holds this lock of the study. Raises ValueError if one does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / lock).open("a+", encoding="utf-8") as file:
        for _ in range(_TRIES):
            if _taken(file, fcntl.LOCK_EX):
                break
            time.sleep(_TRY_EVERY_S)
        else:
            raise UserError(
                f"one search at a time writes a study: {_holder(file)} works on {folder}; wait, stop it, look on with "
                f"`understudy watch {folder.name}`, or give this one another --name"
            )
        file.truncate(0)
        begun = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()} (begun {begun})")
        file.flush()
        yield


def holder_of(folder: Path, *, lock: str = COMMAND) -> str | None:
    """Who holds a lock of the study, in words; None if nobody does."""
    try:
        with (folder / lock).open(encoding="utf-8") as file:
            return None if _taken(file, fcntl.LOCK_SH) else _holder(file)
    except FileNotFoundError:
        return None


def _taken(file: IO[str], operation: int) -> bool:
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read() or "another process"
