# SPDX-License-Identifier: Apache-2.0
"""The folder in which Ray makes its sockets and logs, checked before anything is computed.

The operating system allows 107 bytes for the path of a Unix socket, and Ray's longest is 66 or so below its folder: one
that is too long, as some job schedulers set it, would end the search after minutes of preparation.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from search.storage.disk_space import is_disk_full
from spaces.errors import UserError

MOST_BYTES = 107  # sun_path of Linux's unix(7) has 108, the last of them 0
_REMEDY = "set RAY_TMPDIR to a short path of a folder that can be written to, such as /tmp"


def require_temporary_folder() -> None:
    """Raises ValueError unless a Ray that this process starts can make its sockets in its temporary folder."""
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), None)  # as Ray reads them
    folder = Path(os.environ[variable] if variable else "/tmp")
    session = f"session_{time.strftime('%Y-%m-%d_%H-%M-%S')}_{0:06d}_{os.getpid()}"
    socket = folder / "ray" / session / "sockets" / "plasma_store"
    named = f"{variable}={folder}" if variable else str(folder)
    most = MOST_BYTES - len(os.fsencode(socket)) + len(os.fsencode(folder))
    if len(os.fsencode(socket)) > MOST_BYTES:
        raise UserError(
            f"the path of Ray's temporary folder must have at most {most} bytes, as that of a socket in it has at most "
            f"{MOST_BYTES}, got {len(os.fsencode(folder))} bytes: {named}; {_REMEDY}"
        )
    existing = next(path for path in (folder / "ray", folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(dir=existing):
            pass
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(
            f"Ray must be able to write to its temporary folder: {error.strerror} in {existing} ({named}); {_REMEDY}"
        ) from None
