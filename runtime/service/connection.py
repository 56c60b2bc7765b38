# SPDX-License-Identifier: Apache-2.0
"""uvicorn's HTTP connection with limits of time, so that a client that does nothing does not hold one.

uvicorn limits only the time between an answer and the first byte of the next request. Here the headers of a request
must arrive within some seconds of the connection, or of their first byte; what still comes of a body that was answered
already counts as headers. An answer that the client does not read ends the connection when nothing of it has been
taken for as long as a connection may be idle. The time of a request's body is limited in `runtime.service.routes`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from runtime.service.embeddings_format import RequestError
from runtime.service.limits import ServingOptions

MAX_HEADER_BYTES = 16 * 1024  # of a request's line and headers, and of a chunk's header


def limited_connection(options: ServingOptions) -> type[H11Protocol]:
    """The class of connections with the limits of the options."""

    class Connection(LimitedConnection):
        max_header_seconds = options.max_header_seconds
        max_idle_seconds = options.max_idle_seconds

    return Connection


class LimitedConnection(H11Protocol):
    """A connection with limits of time."""

    max_header_seconds: float
    """Seconds in which the headers of a request must have arrived."""
    max_idle_seconds: float
    """Seconds between an answer and the next request, and in which a client must have read some of an answer."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.timeout_keep_alive = self.max_idle_seconds  # type: ignore[assignment] # int there; used as seconds
        self._header_timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None
        self._n_unread = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called with a new connection."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection has ended."""
        for timer in (self._header_timer, self._reader_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called with bytes of a request."""
        super().data_received(data)
        self._await_headers()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are no HTTP request."""
        message = (
            f"a request must be HTTP/1.1 with headers of at most {MAX_HEADER_BYTES} bytes, got something else; send one"
        )
        self._refuse(RequestError(400, message))

    def timeout_keep_alive_handler(self) -> None:
        """Called when no request has followed an answer."""
        super().timeout_keep_alive_handler()
        self._abort_if_unread()

    def pause_writing(self) -> None:
        """Called when an answer is not read as fast as it is written."""
        super().pause_writing()
        self._abort_if_unread()

    def resume_writing(self) -> None:
        """Called when enough of an answer has been read."""
        super().resume_writing()
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _await_headers(self) -> None:
        """Starts the clock while no request is being answered, and stops it when one is."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering and self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        elif not is_answering and self._header_timer is None and not self.transport.is_closing():
            self._header_timer = self.loop.call_later(self.max_header_seconds, self._end_waiting)

    def _end_waiting(self) -> None:
        self._header_timer = None
        if self.transport.is_closing():
            return
        has_begun, _ = self.conn.trailing_data
        if has_begun and self.conn.our_state is h11.IDLE:
            self._refuse(
                RequestError(408, f"headers must arrive within {self.max_header_seconds:g} s; send them faster")
            )
        else:
            self.transport.close()
        self._abort_if_unread()

    def _abort_if_unread(self) -> None:
        """Ends the connection when its client takes nothing of an answer for `max_idle_seconds`."""
        if self._reader_timer is None:
            self._n_unread = self.transport.get_write_buffer_size()
            self._reader_timer = self.loop.call_later(self.max_idle_seconds, self._check_reader)

    def _check_reader(self) -> None:
        self._reader_timer = None
        n_unread = self.transport.get_write_buffer_size()
        if n_unread and n_unread >= self._n_unread:
            self.transport.abort()
        elif n_unread:
            self._abort_if_unread()

    def _refuse(self, error: RequestError) -> None:
        """Answer with an error object, unless there is an answer already, and close the connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        body = json.dumps(error.to_json()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        response = h11.Response(status_code=error.status, headers=headers, reason=STATUS_PHRASES[error.status])
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
