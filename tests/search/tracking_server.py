# SPDX-License-Identifier: Apache-2.0
"""A real MLflow server on loopback, with a database of its own, that can be killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from search.cli.ui import SERVER_ENVIRONMENT, server_command
from search.storage.store import Store

START_S = 60.0


class TrackingServer:
    """A server whose database and artifacts are those of a store in `folder`; not started by being made."""

    def __init__(self, folder: Path) -> None:
        self._store = Store(folder)
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its address, the same after every start."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Starts it and waits until it answers; nothing if it runs."""
        if self._process is not None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **SERVER_ENVIRONMENT}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                server_command(self._store, port=self._port),
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self._folder / "server.log").read_text()) from None
                time.sleep(0.1)

    def kill(self) -> None:
        """`kill -9` to all its processes, if there are any."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def tracking_server(folder: Path) -> Iterator[TrackingServer]:
    """A server that runs within the block."""
    server = TrackingServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
