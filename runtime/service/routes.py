# SPDX-License-Identifier: Apache-2.0
"""A student as an ASGI application: OpenAI's embeddings API, health and metrics.

    POST /v1/embeddings   sentences or token ids to vectors          GET /health    200 when ready, else 503
    GET  /v1/models       the one model                              GET /metrics   Prometheus' text format

Every error is OpenAI's error object. There is no authentication and no encryption: put a reverse proxy
in front of it. A body must be `application/json`, which a web page cannot send to another host without a CORS
preflight.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from enum import StrEnum
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.layers import Array
from runtime.service.embeddings_format import RequestError, read_request, write_response
from runtime.service.limits import ServingOptions
from runtime.service.metrics import CONTENT_TYPE, ServiceMetrics
from runtime.service.sentence_encoder import SentenceEncoder
from runtime.service.served_student import ServedStudent

ROUTES = ("/v1/embeddings", "/v1/models", "/health", "/metrics")
FEW_NUMBERS = 4096  # written within 1 ms, which blocks the event loop for less than a thread switch costs under load
RETRY_LATER = {"retry-after": "1"}  # seconds: a small student answers many requests in one
CLIENT_LEFT = 499  # nginx's number for a client that closed the connection; nobody receives it


class State(StrEnum):
    """The state of a service."""

    LOADING = "loading"
    READY = "ready"
    CLOSING = "closing"


class Service:
    """One student behind HTTP. Its application loads the student when it starts, and answers 503 meanwhile."""

    def __init__(
        self,
        load: Callable[[], SentenceEncoder],
        options: ServingOptions,
        *,
        name: str,
        on_loaded: Callable[[], None] = lambda: None,
    ) -> None:
        """`load` is called in a thread. `on_loaded` is called when it has ended; `state` is then READY, or CLOSING
        after a `failure` or a signal.
        """
        self.name = name
        self.state = State.LOADING
        self.failure: Exception | None = None
        self._load = load
        self._options = options
        self._on_loaded = on_loaded
        self._student: ServedStudent | None = None
        self._n_requests = 0
        self._started = int(time.time())
        self._metrics = ServiceMetrics(n_waiting=lambda: self._student.batcher.n_waiting if self._student else 0)

    def application(self) -> Starlette:
        """The ASGI application."""
        application = Starlette(
            routes=[
                Route("/v1/embeddings", self._embeddings, methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/health", self._health, methods=["GET"]),
                Route("/metrics", self._show_metrics, methods=["GET"]),
            ],
            middleware=[Middleware(_Measured, metrics=self._metrics)],
            exception_handlers={
                RequestError: _answer_request_error,
                HTTPException: _answer_http_error,
                ClientDisconnect: _answer_nobody,
                Exception: _answer_failure,
            },
            lifespan=self._live,
        )
        application.router.redirect_slashes = False
        return application

    def refuse_new(self) -> None:
        """Answer new requests with 503; those in progress are finished."""
        self.state = State.CLOSING

    @asynccontextmanager
    async def _live(self, application: Starlette) -> AsyncIterator[None]:
        starting = asyncio.create_task(self._start())
        yield
        self.refuse_new()
        await starting
        if self._student is not None:
            await self._student.batcher.close()

    async def _start(self) -> None:
        try:
            encoder = await asyncio.to_thread(self._load)
            self._student = ServedStudent(encoder, self._options, name=self.name, observe=self._metrics.observe_batch)
            await self._student.warm_up()
        except Exception as error:
            self.failure = error
            self.refuse_new()
        if self.state is not State.CLOSING:
            self.state = State.READY
        self._on_loaded()

    async def _embeddings(self, request: Request) -> Response:
        student = self._student
        if self.state is not State.READY or student is None:
            raise RequestError(503, f"the service is {self.state}; try again later", headers=RETRY_LATER)
        _check_content_type(request.headers.get("content-type", ""))
        with self._place():
            body = await self._read_body(request)
            asked = read_request(body, student.rules)
            sentences = await student.tokenise(asked.sentences)
            vectors = await _unless_client_leaves(request, student.encode(sentences))
            write = partial(
                write_response,
                vectors,
                model=self.name,
                n_tokens=sum(len(sentence) for sentence in sentences),
                encoding_format=asked.encoding_format,
            )
            content = write() if vectors.size <= FEW_NUMBERS else await asyncio.to_thread(write)
        return Response(content, media_type="application/json")

    async def _models(self, request: Request) -> Response:
        model = {"id": self.name, "object": "model", "created": self._started, "owned_by": "understudy"}
        return _json_response({"object": "list", "data": [model]})

    async def _health(self, request: Request) -> Response:
        return _json_response({"status": self.state}, status=200 if self.state is State.READY else 503)

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Count the request as in progress while the block runs. Raises RequestError when `max_queue` are."""
        if self._n_requests >= self._options.max_queue:
            raise RequestError(
                429,
                f"at most {self._options.max_queue} requests are served at a time; try again later",
                code="rate_limit_exceeded",
                headers=RETRY_LATER,
            )
        self._n_requests += 1
        try:
            with self._metrics.in_progress.track_inprogress():
                yield
        finally:
            self._n_requests -= 1

    async def _read_body(self, request: Request) -> bytes:
        """The body; its size is checked while it arrives, not only by its header."""
        most, seconds = self._options.max_body_bytes, self._options.max_body_seconds
        too_large = RequestError(413, f"a body has at most {most} bytes, got more; send several requests")
        if _declared_length(request) > most:  # spares the client from sending it
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(seconds):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > most:
                        raise too_large
        except TimeoutError:
            raise RequestError(
                408, f"a body must arrive within {seconds:g} s; send it faster", headers={"connection": "close"}
            ) from None
        return bytes(body)


class _Measured:
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
            route = scope["path"] if scope["path"] in ROUTES else "other"  # a bounded number of labels
            self._metrics.observe_request(route, status, time.perf_counter() - start)


async def _unless_client_leaves(request: Request, answer: Coroutine[Any, Any, Array]) -> Array:
    """The answer; when the client closes the connection first, cancels it and raises ClientDisconnect."""
    answering = asyncio.create_task(answer)
    leaving = asyncio.create_task(_client_leaves(request))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ClientDisconnect
        return answering.result()
    finally:
        answering.cancel()
        leaving.cancel()


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_content_type(header: str) -> None:
    content_type = header.partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise RequestError(
            415,
            f"a body must be application/json, got {content_type!r}; send the header Content-Type: application/json",
        )


def _declared_length(request: Request) -> int:
    try:
        return int(request.headers.get("content-length", "0"))
    except ValueError:
        return 0


def _json_response(document: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json.dumps(document), status_code=status, headers=headers, media_type="application/json")


async def _answer_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _json_response(error.to_json(), status=error.status, headers=error.headers)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors: an unknown path, and a method that a path does not have."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    path = str(request.scope["path"])[:100]
    if error.status_code == 405:
        message = f"{path} takes {headers.get('Allow')}, got {request.method}; change the method"
    else:
        message = f"there is nothing at {path}; there are {', '.join(ROUTES)}"
    return await _answer_request_error(request, RequestError(error.status_code, message, headers=headers))


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)


async def _answer_failure(request: Request, error: Exception) -> Response:
    """Answer an unexpected exception with 500; the server logs its traceback."""
    return await _answer_request_error(request, RequestError(500, "the service failed to answer; its log says why"))
