# SPDX-License-Identifier: Apache-2.0
"""The raylet of the second of two nodes: the sudden loss of a machine of the cluster."""

from __future__ import annotations

import os
import random
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.fault_injection.faults import WORKERS, Command, Environment
from benchmarks.fault_injection.losses import Losses
from benchmarks.fault_injection.processes import descendants, name_of
from search.storage.store import Store

LONGEST_WORK_S = 10.0  # of a worker before its node dies
LONGEST_ABSENCE_S = 8.0  # until another node takes its place


class Raylet:
    """One CPU each for the head, which the driver is connected to, and for the node that dies."""

    steps = ("searching",)
    n_trials = 64

    def __init__(self) -> None:
        self._cluster: Any = None
        self._node: Any = None

    def environment(self, folder: Path) -> AbstractContextManager[Environment]:
        """A store, and a cluster of two nodes."""
        return self._with_cluster(Store(folder / "store"))

    def inject(self, command: Command, *, generator: random.Random, losses: Losses) -> bool:
        """Kills the second node's raylet while a trial runs there; after a while another node takes its place."""
        [raylet] = self._node.all_processes["raylet"]
        if not any(name_of(pid).startswith(WORKERS) for pid in descendants(raylet.process.pid)):
            return False
        time.sleep(generator.uniform(0.0, LONGEST_WORK_S))  # a worker that was found may only be starting
        os.kill(raylet.process.pid, signal.SIGKILL)
        self._cluster.remove_node(self._node, allow_graceful=False)  # what is left of it
        time.sleep(generator.uniform(0.0, LONGEST_ABSENCE_S))
        self._node = self._cluster.add_node(num_cpus=1)
        return True

    def explains(self, command: Command, losses: Losses) -> bool:
        """The command goes on."""
        return False

    @contextmanager
    def _with_cluster(self, store: Store) -> Iterator[Environment]:
        from ray.cluster_utils import Cluster

        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # for the nodes and for the command
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            self._node = self._cluster.add_node(num_cpus=1)
            yield Environment(store=store, options=("--address", self._cluster.address))
        finally:
            self._cluster.shutdown()
