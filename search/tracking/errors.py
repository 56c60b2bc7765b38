# SPDX-License-Identifier: Apache-2.0
"""Errors of MLflow: unreachable or refused, and the reason in a few words.

A server may be unreachable at any time. MLflow would retry for minutes, and repeat requests that may have succeeded, so
its retries are set to 0 (unless the user sets MLFLOW_HTTP_REQUEST_MAX_RETRIES), and requests that may be repeated are
retried here.
"""

from __future__ import annotations

import re

from spaces.errors import UserError

ANSWER_S = 5  # timeout of the request that checks, before a search, that a server answers

_REASON_CHARACTERS = 200
_REASONS = (
    re.compile(r"(Unable to connect to proxy|Cannot connect to proxy|Tunnel connection failed: \d{3}[ \w]*)"),
    re.compile(r"\[Errno -?\d+\] ([A-Z][A-Za-z ]+)"),  # such as Connection refused, Name or service not known
    re.compile(r"too many (\d{3} error) responses"),
    re.compile(r"failed with (error code \d{3})"),
    re.compile(r"(certificate verify failed|[Cc]onnection aborted|timed out)"),
)


class TrackingError(UserError):
    """MLflow is unreachable or refuses a request; the request may be tried again."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """The reason in a few words."""


def tracking_errors() -> tuple[type[Exception], ...]:
    """Types of the exceptions for a server that does not answer, or refuses (imports MLflow)."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    return TrackingError, MlflowException, RequestException


def is_refusal(error: Exception) -> bool:
    """Whether a server has refused the request (a 4xx status but 408 and 429), so that a retry would not help."""
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
    """The reason of a failed request, in a few words."""
    if isinstance(error, TrackingError):
        return error.reason
    text = str(error) or type(error).__name__
    for pattern in _REASONS:
        found = pattern.search(text)
        if found is not None:
            return found[1]
    return text.splitlines()[0][:_REASON_CHARACTERS]
