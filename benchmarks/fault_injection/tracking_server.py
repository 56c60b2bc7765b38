# SPDX-License-Identifier: Apache-2.0
"""The MLflow server that a study is tracked on: killed with all its processes, and started again later."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks.fault_injection.faults import ANY_STEP, Command, Environment
from benchmarks.fault_injection.losses import Losses
from search.storage.store import Store
from tests.search.tracking_server import TrackingServer as Server
from tests.search.tracking_server import tracking_server

_REFUSAL = "an MLflow server must answer at "  # said before anything is computed
LONGEST_AWAY_S = 15.0  # beside the seconds that the server takes to start


class TrackingServer:
    """An MLflow server with its own database and artifacts, outside the store."""

    steps = (*ANY_STEP, "registering", "registering")  # where the command talks to it most
    n_trials = 16

    def __init__(self) -> None:
        self._server: Server | None = None

    def environment(self, folder: Path) -> AbstractContextManager[Environment]:
        """A store, and a server that it tracks on."""
        return self._with_server(folder)

    def inject(self, command: Command, *, generator: random.Random, losses: Losses) -> bool:
        """Kills it; returns when it answers again, while the command went on without it."""
        assert self._server is not None
        self._server.kill()
        time.sleep(generator.uniform(0.0, LONGEST_AWAY_S))
        self._server.start()
        return True

    def explains(self, command: Command, losses: Losses) -> bool:
        """It refused to begin. Later it goes on: it waits longer at its end than the server is away."""
        text = command.text()
        return "Traceback" not in text and _REFUSAL in text.strip().splitlines()[-1]

    @contextmanager
    def _with_server(self, folder: Path) -> Iterator[Environment]:
        with tracking_server(folder / "server") as server:
            self._server = server
            store = Store(folder / "store", server.uri)
            yield Environment(store=store, options=("--tracking-uri", server.uri))
