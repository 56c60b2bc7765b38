# SPDX-License-Identifier: Apache-2.0
"""What it means that MLflow does not answer, or refuses.

A server may be away at any time. MLflow would then try for minutes, and would send again what may have been done, so
we set its retries to none (whoever sets MLFLOW_HTTP_REQUEST_MAX_RETRIES is obeyed) and try again ourselves, where we
know what may be repeated.
"""

from __future__ import annotations

import re

from spaces.errors import UserError

ANSWER_S = 5  # a server is asked before a search whether it is there, and must answer in this time

_REASON_CHARACTERS = 200
_REASONS = (
    re.compile(r"\[Errno -?\d+\] ([A-Z][A-Za-z ]+)"),  # such as Connection refused, Name or service not known
    re.compile(r"too many (\d{3} error) responses"),
    re.compile(r"failed with (error code \d{3})"),
    re.compile(r"(certificate verify failed|[Cc]onnection aborted|timed out)"),
)


class TrackingError(UserError):
    """MLflow cannot be asked, or does not take what it is told; what failed may be tried again."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """Why, in a few words."""


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
