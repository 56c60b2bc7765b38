# SPDX-License-Identifier: Apache-2.0
"""Tracking addresses: an MLflow server or an sqlite file.

http://HOST:PORT, https://HOST/PATH    an MLflow server, which keeps artifacts as well
sqlite:///FILE                         a database on this machine, with artifacts in the store
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlparse, urlsplit

from spaces.errors import UserError

_SQLITE = "sqlite:///"
_RULE = "a tracking address is http://HOST:PORT, https://HOST or sqlite:///FILE"


def require_tracking_uri(text: str) -> str:
    """The address in the form that is stored: no slash at the end, the absolute path of a database.

    Raises ValueError for anything that is not the address of a server or of an sqlite file.
    """
    if text.startswith(_SQLITE):
        path = text.removeprefix(_SQLITE)
        if not path or path.endswith("/") or any(character in path for character in "?%:"):
            raise UserError(f"{_RULE}, with a file's path that holds no '?', '%' or ':', got {text!r}")
        return f"{_SQLITE}{Path(path).expanduser().absolute()}"
    if not text.startswith(("http://", "https://")):
        raise UserError(f"{_RULE}, got {text!r}; leave it out to track in the store's own database")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:  # the port is not a number
        host, port = None, None
    wrong = re.search(r"[\s\x00-\x1f\x7f\\]", text) or parts.query or parts.fragment or port == 0
    if parts.username is not None or parts.password is not None:
        raise UserError(
            "a tracking address is stored and shown, so it must not hold a name or a password; "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if not host or wrong or not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", host):
        raise UserError(f"{_RULE}, got {text!r}")
    return text.rstrip("/")


def is_server(uri: str) -> bool:
    """Whether an address is that of a server, not of a database."""
    return not uri.startswith(_SQLITE)


def database_of(uri: str) -> Path:
    """The file that a database's address names."""
    return Path(uri.removeprefix(_SQLITE))


def database_uri(path: Path) -> str:
    """The address of a database's file."""
    return f"{_SQLITE}{path}"


def path_of(address: str) -> Path:
    """The path of a file's or a folder's address (file:///FOLDER)."""
    return Path(unquote(urlparse(address).path))
