# SPDX-License-Identifier: Apache-2.0
"""A student as an ASGI application: OpenAI's embeddings API, health and metrics.

    POST /v1/embeddings         sentences or token ids to vectors    GET /health    200 when ready, else 503
    GET  /v1/models[/{model}]   the one model                        GET /metrics   Prometheus' text format

Every error is OpenAI's error object. With an API key, every route but /health needs it. There is no encryption: put a
reverse proxy in front of it. A body must be `application/json`, which a web page cannot send to another host without a
CORS preflight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
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

from runtime.layers import Array
from runtime.service.content_encoding import decode_body, require_encoding
from runtime.service.embeddings_format import RequestError, read_request, require_model, shown, write_response
from runtime.service.limits import ServingOptions
from runtime.service.metrics import CONTENT_TYPE, ServiceMetrics
from runtime.service.middleware import MODELS, ROUTES, Guarded, Measured, error_response, json_response
from runtime.service.sentence_encoder import SentenceEncoder
from runtime.service.served_student import ServedStudent

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
        self.options = options
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
                Route(MODELS, self._models, methods=["GET"]),
                Route(f"{MODELS}/{{model:path}}", self._model, methods=["GET"]),
                Route("/health", self._health, methods=["GET"]),
                Route("/metrics", self._show_metrics, methods=["GET"]),
            ],
            middleware=[
                Middleware(Measured, metrics=self._metrics),
                Middleware(Guarded, api_key=self.options.api_key),
            ],
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
            self._student = ServedStudent(encoder, self.options, name=self.name, observe=self._metrics.observe_batch)
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
            coding = require_encoding(", ".join(request.headers.getlist("content-encoding")))
            body = await self._read_body(request)
            if coding != "identity":
                body = await asyncio.to_thread(decode_body, body, coding, most=self.options.max_body_bytes)
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
        return json_response({"object": "list", "data": [self._description()]})

    async def _model(self, request: Request) -> Response:
        require_model(request.path_params["model"], self.name)
        return json_response(self._description())

    def _description(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": self._started, "owned_by": "understudy"}

    async def _health(self, request: Request) -> Response:
        return json_response({"status": self.state}, status=200 if self.state is State.READY else 503)

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Count the request as in progress while the block runs. Raises RequestError when `max_queue` are."""
        if self._n_requests >= self.options.max_queue:
            raise RequestError(
                429,
                f"at most {self.options.max_queue} requests are served at a time; try again later",
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
        most, seconds = self.options.max_body_bytes, self.options.max_body_seconds
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
            f"a body must be application/json, got {shown(content_type)}; send Content-Type: application/json",
        )


def _declared_length(request: Request) -> int:
    try:
        return int(request.headers.get("content-length", "0"))
    except ValueError:
        return 0


async def _answer_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error_response(error)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors: an unknown path, and a method that a path does not have."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    path = str(request.scope["path"])[:100]
    if error.status_code == 405:
        message = f"{path} takes {headers.get('Allow')}, got {request.method}; change the method"
    else:
        message = f"there is nothing at {path}; there are {', '.join(ROUTES)}"
    return error_response(RequestError(error.status_code, message, headers=headers))


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)


async def _answer_failure(request: Request, error: Exception) -> Response:
    """Answer an unexpected exception with 500; the server logs its traceback."""
    return error_response(RequestError(500, "the service failed to answer; its log says why"))
