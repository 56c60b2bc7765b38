# SPDX-License-Identifier: Apache-2.0
"""A service in a thread of the tests, and a client of it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

import numpy as np
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from runtime.service.limits import ServingOptions
from runtime.service.routes import Service, State
from runtime.service.sentence_encoder import SentenceEncoder
from runtime.service.server import make_server, open_socket

GOOD = '{"model": "tiny", "input": "the cat"}'
SECONDS = 60.0
JSON = {"Content-Type": "application/json"}


class Client:
    """Asks a server that runs in this process."""

    def __init__(self, service: Service, server: uvicorn.Server, port: int) -> None:
        self.service = service
        self.server = server
        self.port = port

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, and body of the answer."""
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, {name.lower(): text for name, text in response.getheaders()}, response.read()
        finally:
            connection.close()

    def embed(self, **document: Any) -> tuple[int, Any]:
        """Status and document of an embeddings request."""
        body = json.dumps({"model": "tiny", **document})
        status, _, answer = self.ask("POST", "/v1/embeddings", body, JSON)
        return status, json.loads(answer)

    def vectors(self, **document: Any) -> np.ndarray:
        status, answer = self.embed(**document)
        assert status == 200, answer
        return np.array([entry["embedding"] for entry in answer["data"]], dtype=np.float32)

    def metrics(self) -> dict[tuple[str, tuple[str, ...]], float]:
        """Value by name and labels' values."""
        _, _, answer = self.ask("GET", "/metrics")
        families = text_string_to_metric_families(answer.decode())
        return {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}


@contextmanager
def serving(engine: Callable[[], SentenceEncoder] | Service, options: ServingOptions | None = None) -> Iterator[Client]:
    """A service in a thread; it is not waited for until it is ready."""
    service = engine if isinstance(engine, Service) else Service(engine, options or ServingOptions(), name="tiny")
    server = make_server(service)
    with open_socket("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Client(service, server, listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(SECONDS)
            assert not thread.is_alive()


def wait_until(condition: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(int(SECONDS * 100)):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("what was waited for did not come")


def wait_until_ready(client: Client) -> Client:
    wait_until(lambda: client.service.state is State.READY)
    return client


def send(client: Client, head: str, body: bytes) -> socket.socket:
    """A connection on which a raw request was sent."""
    connection = socket.create_connection(("127.0.0.1", client.port), timeout=SECONDS)
    connection.sendall(f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode() + body)
    return connection


def refusal(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, dict[str, Any]]:
    """Status and error object of an answer that must be one."""
    status, headers, body = answer
    document = json.loads(body)
    assert headers["content-type"] == "application/json"
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "param", "code"}
    assert document["error"]["type"] == "invalid_request_error"
    return status, document["error"]
