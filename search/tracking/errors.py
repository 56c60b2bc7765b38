# SPDX-License-Identifier: Apache-2.0
"""Where MLflow keeps what a store tracks: an address, and what it means that nobody answers there.

    http://HOST:PORT, https://HOST/PATH    an MLflow server, which keeps artifacts as well
    sqlite:///FILE                         a database on this machine, with artifacts in the store

A server may be away at any time. MLflow would then try for minutes, and would send again what may have been done, so
we set its retries to none (whoever sets MLFLOW_HTTP_REQUEST_MAX_RETRIES is obeyed) and try again ourselves, where we
know what may be repeated.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

ANSWER_S = 5  # a server is asked before a search whether it is there, and must answer in this time

_SQLITE = "sqlite:///"
_RULE = "a tracking address is http://HOST:PORT, https://HOST or sqlite:///FILE"
_REASON_CHARACTERS = 200
_REASONS = (
    re.compile(r"\[Errno -?\d+\] ([A-Z][A-Za-z ]+)"),  # such as Connection refused, Name or service not known
    re.compile(r"too many (\d{3} error) responses"),
    re.compile(r"failed with (error code \d{3})"),
    re.compile(r"(certificate verify failed|[Cc]onnection aborted|timed out)"),
)


class TrackingError(ValueError):
    """MLflow cannot be asked, or does not take what it is told; what failed may be tried again."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """Why, in a few words."""


def require_tracking_uri(text: str) -> str:
    """The address in the form that is remembered: no slash at the end, a database by its absolute path.

    Raises ValueError for anything that is not the address of a server or of an sqlite file.
    """
    if text.startswith(_SQLITE):
        path = text.removeprefix(_SQLITE)
        if not path or path.endswith("/") or any(character in path for character in "?%:"):
            raise ValueError(f"{_RULE}, with a file's path that holds no '?', '%' or ':', got {text!r}")
        return f"{_SQLITE}{Path(path).expanduser().absolute()}"
    if not text.startswith(("http://", "https://")):
        raise ValueError(f"{_RULE}, got {text!r}; leave it out to track in the store's own database")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is none
        host, port = None, None
    wrong = re.search(r"[\s\x00-\x1f\x7f\\]", text) or parts.query or parts.fragment or port == 0
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "a tracking address is remembered and shown, so it must not hold a name or a password; "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if not host or wrong or not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", host):
        raise ValueError(f"{_RULE}, got {text!r}")
    return text.rstrip("/")


def is_server(uri: str) -> bool:
    """Whether an address is a server's, not a database's."""
    return not uri.startswith(_SQLITE)


def database_of(uri: str) -> Path:
    """The file of a database's address."""
    return Path(uri.removeprefix(_SQLITE))


def database_uri(path: Path) -> str:
    """The address of a database's file."""
    return f"{_SQLITE}{path}"


def tracking_errors() -> tuple[type[Exception], ...]:
    """What is raised when a server does not answer, or refuses (imports MLflow)."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    return TrackingError, MlflowException, RequestException


def is_refusal(error: Exception) -> bool:
    """Whether a server has answered, and said no: asking again would not help. Else it is away, busy or broken."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
    elif isinstance(error, HTTPError) and error.response is not None:
        status = error.response.status_code
    else:
        return False
    return 400 <= status < 500 and status not in (408, 429)


def reason_of(error: Exception) -> str:
    """Why a server did not do it, in a few words."""
    if isinstance(error, TrackingError):
        return error.reason
    text = str(error) or type(error).__name__
    for pattern in _REASONS:
        found = pattern.search(text)
        if found is not None:
            return found[1]
    return text.splitlines()[0][:_REASON_CHARACTERS]
