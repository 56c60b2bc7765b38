# SPDX-License-Identifier: Apache-2.0
"""A client that does nothing, does it slowly, or means two things at once does not hold a connection."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from runtime import load
from runtime.service.limits import ServingOptions
from tests.runtime.serving import GOOD, SECONDS, Client, serving, wait_until, wait_until_ready
from tests.runtime.tiny_student import write_tiny_student

HEADERS = "Host: x\r\nContent-Type: application/json\r\n"
REQUEST = f"POST /v1/embeddings HTTP/1.1\r\n{HEADERS}Content-Length: {len(GOOD)}\r\n\r\n{GOOD}".encode()
BRIEF = ServingOptions(max_header_seconds=0.3, max_idle_seconds=0.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_student(tmp_path_factory.mktemp("connection") / "tiny")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with serving(lambda: load(folder)) as made:
        yield wait_until_ready(made)


@pytest.fixture(scope="module")
def impatient(folder: Path) -> Iterator[Client]:
    """A service that waits for fractions of a second."""
    with serving(lambda: load(folder), BRIEF) as made:
        yield wait_until_ready(made)


def connect(client: Client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", client.port), timeout=SECONDS)


def read_to_end(connection: socket.socket) -> bytes:
    """Everything until the service closes the connection; the socket's own limit of time is an error."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def read_status(connection: socket.socket) -> int:
    """Status of one answer, which is read completely."""
    response = HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


def error_of(answer: bytes) -> dict[str, Any]:
    """The error object of the last answer."""
    document = json.loads(answer.rpartition(b"\r\n\r\n")[2])
    assert set(document["error"]) == {"message", "type", "param", "code"}
    return dict(document["error"])


@pytest.mark.parametrize("sent", [b"", REQUEST], ids=["nothing", "after an answer"])
def test_an_idle_connection_is_closed(impatient: Client, sent: bytes) -> None:
    with connect(impatient) as connection:
        connection.sendall(sent)
        assert read_to_end(connection).count(b"HTTP/1.1 200 OK") == bool(sent)


@pytest.mark.parametrize("before", [b"", REQUEST], ids=["first", "second"])
@pytest.mark.parametrize("sent", [b"G", b"GET /health HT", REQUEST[:60]], ids=repr)
def test_headers_that_do_not_arrive_are_408(impatient: Client, before: bytes, sent: bytes) -> None:
    with connect(impatient) as connection:
        connection.sendall(before + sent)
        answer = read_to_end(connection)
    if before:  # what follows an answer at once is waited for like the next request, and needs no answer
        assert answer.startswith(b"HTTP/1.1 200 ")
    else:
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert "headers must arrive within 0.3 s" in error_of(answer)["message"]


@pytest.mark.parametrize("before", [b"", REQUEST], ids=["first", "second"])
def test_headers_that_trickle_in_are_given_up(impatient: Client, before: bytes) -> None:
    with connect(impatient) as connection:
        connection.sendall(before)
        if before:
            assert read_status(connection) == 200
        connection.settimeout(0.02)
        received = b""
        for _ in range(int(SECONDS / 0.02)):
            try:
                connection.sendall(b"GET /health HTTP/1.1\r\nX: y\r\n" if not received else b"x: y\r\n")
                chunk = connection.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:
                break
            if not chunk:
                break
            received += chunk
        else:
            raise AssertionError("the connection was held")
    assert b"HTTP/1.1 408 " in received or not received


def test_a_body_that_nobody_reads_does_not_hold_the_connection(impatient: Client) -> None:
    with connect(impatient) as connection:
        connection.sendall(f"POST /nowhere HTTP/1.1\r\n{HEADERS}Content-Length: 100000\r\n\r\n".encode())
        assert read_status(connection) == 404
        connection.settimeout(0.02)
        for _ in range(int(SECONDS / 0.02)):
            try:
                connection.sendall(b"x")
                if not connection.recv(65536):
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
    raise AssertionError("the connection was held")


def test_a_client_that_reads_nothing_is_disconnected(folder: Path) -> None:
    with serving(lambda: load(folder), BRIEF) as client:
        wait_until_ready(client)
        body = json.dumps({"model": "tiny", "input": ["the cat"] * 2048})
        head = f"POST /v1/embeddings HTTP/1.1\r\n{HEADERS}Content-Length: {len(body)}\r\n\r\n"
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", client.port))
        connection.settimeout(1.0)
        with connection:
            try:
                for _ in range(200):
                    connection.sendall((head + body).encode())
            except (TimeoutError, ConnectionError):
                pass
            wait_until(lambda: not client.server.server_state.connections)


def test_a_request_that_takes_longer_than_headers_may_is_answered(folder: Path) -> None:
    with serving(lambda: load(folder), ServingOptions(max_header_seconds=0.3)) as client:
        wait_until_ready(client)
        with connect(client) as connection:
            connection.sendall(REQUEST[:-1])
            with pytest.raises(TimeoutError):
                connection.settimeout(0.5)
                connection.recv(1)
            connection.settimeout(SECONDS)
            connection.sendall(REQUEST[-1:])
            assert read_status(connection) == 200


CHUNKED = f"{len(GOOD):x}\r\n{GOOD}\r\n0\r\n\r\n"
SMUGGLED = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        f"Content-Length: {len(CHUNKED)}\r\nTransfer-Encoding: chunked\r\n",
        f"Transfer-Encoding: chunked\r\nContent-Length: {len(CHUNKED + SMUGGLED)}\r\n",
        "content-length: 0\r\ntransfer-encoding: Chunked\r\n",
        f"Content-Length: {len(CHUNKED)}\r\nContent-Length: 5\r\n",
        f"Content-Length: {len(CHUNKED)}, 5\r\n",
        f"Content-Length: +{len(CHUNKED)}\r\n",
        "Content-Length: -1\r\n",
        f"Content-Length : {len(CHUNKED)}\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
    ],
)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/health", "/nowhere"])
def test_after_a_request_of_two_lengths_the_connection_is_closed(client: Client, path: str, head: str) -> None:
    with connect(client) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\n{HEADERS}{head}\r\n{CHUNKED}{SMUGGLED}".encode())
        answer = read_to_end(connection)
    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", answer)) == 1
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert error_of(answer)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the beginning of TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",  # without Host
        b"GET /health HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 16_400,
        f"POST /v1/embeddings HTTP/1.1\r\n{HEADERS}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode(),
    ],
    ids=lambda sent: repr(sent[:24]),
)
def test_what_is_no_http_gets_an_error_object(client: Client, sent: bytes) -> None:
    with connect(client) as connection:
        connection.sendall(sent)
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 4")
    assert "must be HTTP/1.1" in error_of(answer)["message"]


def test_a_bad_chunk_after_the_answer_ends_the_connection(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with connect(client) as connection:
        connection.sendall(f"POST /nowhere HTTP/1.1\r\n{HEADERS}Transfer-Encoding: chunked\r\n\r\n".encode())
        assert read_status(connection) == 404
        connection.sendall(b"zz\r\n")
        assert read_to_end(connection) == b""
    assert "Traceback" not in caplog.text
    assert all(record.exc_info is None for record in caplog.records)
