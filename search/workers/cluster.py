# SPDX-License-Identifier: Apache-2.0
"""Ray: started on this machine, or connected to. The one place that says how.

Assumes one driver process, and that its main thread connects: what Ray starts dies with the thread that
started it. `connect` sets environment variables that Ray reads (its token, its telemetry, the switches of
Ray Train), and they stay set for the process and for what it starts.

A local Ray is ours alone: no dashboard, a fresh token that only this process and its workers know, and an
object store of at most 1 GiB unless the data needs more (its pages are taken as they are used). A cluster
that exists already keeps its own authentication; `RAY_AUTH_MODE` of the environment always wins.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray

from spaces.errors import UserError

OBJECT_STORE_BYTES = 1 << 30  # enough for 160,000 cached sentences and a teacher; more is asked for by name
_LOCAL = "local"
_PROBE_S = 3.0

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # today's default warns that it will become this
    "RAY_TRAIN_METRICS_ENABLED": "0",  # nobody scrapes them: there is no dashboard
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process fewer to start; state is saved often anyway
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how late the end of a run is noticed; the default is 2 s
}


def connect(address: str | None = None, *, n_cpus: int | None = None, n_object_bytes: int = 0) -> bool:
    """Connects this process to Ray, if it is not connected yet; whether it did, and so has a connection to end.

    `address` None means `RAY_ADDRESS` if that is set, else a Ray of our own on this machine, with `n_cpus`
    CPUs (None: all) and an object store that holds `n_object_bytes`. Raises ValueError if nothing answers
    at the address.
    """
    if ray.is_initialized():
        return False
    try:
        _connect(address, n_cpus=n_cpus, n_object_bytes=n_object_bytes)
    except BaseException:
        disconnect()  # what was half begun, perhaps by a Ctrl-C
        raise
    return True


def _connect(address: str | None, *, n_cpus: int | None, n_object_bytes: int) -> None:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    address = address or os.environ.get("RAY_ADDRESS") or _LOCAL
    if address == _LOCAL:
        # Ray turns token authentication on by itself here and writes RAY_AUTH_MODE for its children; setting the
        # mode now would be too late for this process, which read it when it imported ray.
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        ray.init(
            address=_LOCAL,
            num_cpus=n_cpus,
            include_dashboard=False,
            object_store_memory=max(OBJECT_STORE_BYTES, n_object_bytes),
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        return
    try:
        _probe(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster can be reached at {address!r}: {error}; start one (ray start --head), give its "
            "address and token, or leave --address out to use this machine"
        ) from error


def disconnect() -> None:
    """Leaves the cluster; a Ray that `connect` started is stopped with everything that runs on it.

    For whoever was told by `connect` that it connected: a notebook's own session is not ours to end.
    """
    with suppress(Exception):  # the way out, perhaps after a Ctrl-C in the middle of a start: nothing to save here
        ray.shutdown()


@contextmanager
def cluster(address: str | None = None, *, n_cpus: int | None = None, n_object_bytes: int = 0) -> Iterator[None]:
    """Connected to Ray inside, and after it as before, whatever happens inside."""
    is_ours = connect(address, n_cpus=n_cpus, n_object_bytes=n_object_bytes)
    try:
        yield
    finally:
        if is_ours:
            disconnect()


def _probe(address: str) -> None:
    """Raises OSError or ValueError unless something listens: Ray itself ends the whole process after a minute."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"a Ray address is HOST:PORT, ray://HOST:PORT or auto, got {address!r}; the head prints it")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S):
        pass


def n_cpus_available() -> int:
    """CPUs of the connected cluster, all nodes together; at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
