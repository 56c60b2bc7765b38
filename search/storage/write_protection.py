# SPDX-License-Identifier: Apache-2.0
"""One error for every way in which a folder or database that must not be written shows.

The operating system reports it by errno, sqlite in the message of an error that MLflow wraps; the file that an errno
names may be a temporary one, so the folder is named instead.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from search.storage.disk_space import causes_of
from spaces.errors import UserError

_ERRNOS = (errno.EACCES, errno.EPERM, errno.EROFS)
_READ_ONLY = re.compile(r"attempt to write a readonly database")
_NOT_OPENED = re.compile(r"unable to open database file")  # also where there are too many open files, or no folder


class WriteProtectedError(UserError):
    """A folder or a file in it must not be written."""


@contextmanager
def write_protection_explained(*folders: Path) -> Iterator[None]:
    """Within the block errors from files in `folders` that must not be written are raised as WriteProtectedError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found = _protected(error, folders)
        if found is None:
            raise
        folder, reason = found
        raise WriteProtectedError(
            f"this command writes to {folder}, which this user must not: {reason}; make it writable, or "
            "choose another folder"
        ) from error


def _protected(error: BaseException, folders: tuple[Path, ...]) -> tuple[Path, str] | None:
    """(folder, reason) if the error, or one of its causes, comes from write protection in one of the folders."""
    for cause in causes_of(error):
        if isinstance(cause, OSError) and cause.errno in _ERRNOS and cause.filename is not None:
            path = Path(os.fsdecode(cause.filename)).absolute()
            inside = [folder for folder in folders if path.is_relative_to(folder)]
            if inside and not _is_writable(path):
                return max(inside, key=lambda folder: len(folder.parts)), os.strerror(cause.errno)
        if not folders:
            continue
        message = _READ_ONLY.search(str(cause)) or _NOT_OPENED.search(str(cause))
        files = (folders[0], *folders[0].glob("*.db"))
        if message is not None and (message.re is _READ_ONLY or not all(map(_is_writable, files))):
            return folders[0], message[0]
    return None


def _is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
