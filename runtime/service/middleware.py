# SPDX-License-Identifier: Apache-2.0
"""What is done with every request before its route: it is counted, its framing is checked, and so is its key."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.service.api_key import is_authorised
from runtime.service.embeddings_format import RequestError
from runtime.service.metrics import ServiceMetrics

MODELS = "/v1/models"
ROUTES = ("/v1/embeddings", MODELS, "/health", "/metrics")
OPEN_ROUTES = ("/health",)  # orchestrators ask it without a key


class Measured:
    """Counts and times every request of an application."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # of a request that ends in an exception
        start = time.perf_counter()

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            self._metrics.observe_request(_route(scope["path"]), status, time.perf_counter() - start)


class Guarded:
    """Refuses a request of two lengths, and one without the service's key."""

    def __init__(self, app: ASGIApp, *, api_key: str | None) -> None:
        """`api_key` None: no key is needed."""
        self._app = app
        self._api_key = api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._refusal(scope) if scope["type"] == "http" else None
        answer = self._app if error is None else error_response(error)
        await answer(scope, receive, send)

    def _refusal(self, scope: Scope) -> RequestError | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in headers}:
            # A proxy that believes the other one would see another request in what follows (RFC 9112, 6.3 and 11.2).
            return RequestError(
                400,
                "a request has Content-Length or Transfer-Encoding, got both; send one of them",
                headers={"connection": "close"},
            )
        if self._api_key is None or scope["path"] in OPEN_ROUTES or is_authorised(headers, self._api_key):
            return None
        got = "another key" if any(name == b"authorization" for name, _ in headers) else "none"
        return RequestError(
            401,
            f"a request must have the service's key, got {got}; send the header Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )


def json_response(document: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response of a JSON document."""
    return Response(json.dumps(document), status_code=status, headers=headers, media_type="application/json")


def error_response(error: RequestError) -> Response:
    """OpenAI's error object."""
    return json_response(error.to_json(), status=error.status, headers=error.headers)


def _route(path: str) -> str:
    """The label of a path in metrics, of which there is a bounded number."""
    if path in ROUTES:
        return path
    return f"{MODELS}/{{model}}" if path.startswith(f"{MODELS}/") else "other"
