# SPDX-License-Identifier: Apache-2.0
"""Starts Ray on this machine, or connects to a Ray cluster.

Assumes one driver process whose main thread connects: processes that Ray starts end with the thread that started them.
`connect` sets environment variables that Ray reads (token, telemetry, switches of Ray Train); they stay set for this
process and its children.

A local Ray has no dashboard, a new token that only this process and its workers know, and an object store of 1 GiB, or
more if the data needs it (memory is used page by page as objects are stored). An existing cluster keeps its own
authentication; the environment variable `RAY_AUTH_MODE` takes precedence.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray

from runtime.proxies import GRPC, proxy_explained
from search.workers.temporary_folder import require_temporary_folder
from spaces.errors import UserError

OBJECT_STORE_BYTES = 1 << 30  # enough for 160,000 cached sentences and a teacher; see `n_object_bytes`
MAX_STARTS = 3
_LOCAL = "local"
_START_TIMED_OUT = "timed out during startup"
_CONNECT_TIMEOUT_S = 3.0
_USE_PROXY = "RAY_grpc_enable_http_proxy"  # Ray ignores proxies unless it is set

_RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # today's default warns that it will become this
    "RAY_TRAIN_METRICS_ENABLED": "0",  # there is no dashboard that reads them
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process fewer; checkpoints are written every 30 s
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how late the end of a run is noticed; the default is 2 s
}


def connect(address: str | None = None, *, n_cpus: int | None = None, n_object_bytes: int = 0) -> bool:
    """Connects this process to Ray unless it is connected; returns whether it did, and so must call `disconnect`.

    `address` None means `RAY_ADDRESS` if that is set, else a new Ray on this machine, with `n_cpus`
    CPUs (None: all) and an object store that holds `n_object_bytes`. Raises ValueError if no cluster can
    be reached at the address.
    """
    if ray.is_initialized():
        return False
    require_startable(address)
    try:
        with _signals_kept():
            _connect(address, n_cpus=n_cpus, n_object_bytes=n_object_bytes)
    except BaseException:
        disconnect()  # a partial start, perhaps after a Ctrl-C
        raise
    return True


@contextmanager
def _signals_kept() -> Iterator[None]:
    """After the block SIGTERM is handled as before it; one that arrives within it raises KeyboardInterrupt.

    A timer (`signal.alarm`, `signal.setitimer`) that the caller has set goes on.

    `ray.init` sets a handler that raises SystemExit, and then one in C++ that prints a stack and aborts the process 3 s
    later; `ray.shutdown` sets the default one, which ends the process.

    Processes that are started within the block inherit that SIGTERM and SIGHUP are blocked, as Ray itself blocks
    SIGINT: a signal to the process group, or to all processes of a job, must not end the workers before the driver has
    recorded its trials. Ray ends its own processes with SIGKILL then, each after a second.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    start_s = time.monotonic()
    timer_s, interval_s = signal.getitimer(signal.ITIMER_REAL)
    handler = signal.getsignal(signal.SIGTERM)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, handler)
            left_s = timer_s - (time.monotonic() - start_s)  # Ray's own handler, if it was called, has set another
            signal.setitimer(signal.ITIMER_REAL, max(0.0, left_s) or interval_s, interval_s)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _connect(address: str | None, *, n_cpus: int | None, n_object_bytes: int) -> None:
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = address or os.environ.get("RAY_ADDRESS") or _LOCAL
    if address == _LOCAL:
        # Ray turns token authentication on by itself here and writes RAY_AUTH_MODE for its children; setting the
        # mode now would be too late for this process, which read it when it imported ray.
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        _start(n_cpus=n_cpus, n_object_bytes=n_object_bytes)
        return
    try:
        _require_reachable(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster can be reached at {address!r}: {error}; start one (ray start --head), give its "
            "address and token, or leave --address out to use this machine"
        ) from error


def require_startable(address: str | None) -> None:
    """Raises ValueError if `connect` would start Ray on this machine and it could not start; starts nothing."""
    if not ray.is_initialized() and (address or os.environ.get("RAY_ADDRESS") or _LOCAL) == _LOCAL:
        require_temporary_folder()
        _require_no_proxy(ray.util.get_node_ip_address())


def _start(*, n_cpus: int | None, n_object_bytes: int) -> None:
    """Starts Ray on this machine, again if that takes longer than Ray's limit of 30 s, which has no setting."""
    for attempt in range(1, MAX_STARTS + 1):
        try:
            ray.init(
                address=_LOCAL,
                num_cpus=n_cpus,
                include_dashboard=False,
                object_store_memory=max(OBJECT_STORE_BYTES, n_object_bytes),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception as error:  # Ray raises no class of its own here
            if _START_TIMED_OUT not in str(error):
                raise
            ray.shutdown()
            if attempt == MAX_STARTS:
                raise UserError(
                    f"Ray must start on this machine in 30 s, and did not in {attempt} attempts: the machine is too "
                    "busy or short of memory; give the same command again later, what is measured is kept"
                ) from error


def disconnect() -> None:
    """Disconnects from the cluster; a Ray that `connect` started is stopped with everything that runs on it.

    To be called only if `connect` returned True: else the connection belongs to the caller, such as a notebook.
    """
    # May run after a Ctrl-C during the start; an error here must not hide the first.
    with _signals_kept(), suppress(Exception):
        ray.shutdown()


@contextmanager
def cluster(address: str | None = None, *, n_cpus: int | None = None, n_object_bytes: int = 0) -> Iterator[None]:
    """Within the block this process is connected to Ray; a connection that was made for it ends with it."""
    connected_here = connect(address, n_cpus=n_cpus, n_object_bytes=n_object_bytes)
    try:
        yield
    finally:
        if connected_here:
            disconnect()


def _require_reachable(address: str) -> None:
    """Raises OSError or ValueError unless the address accepts connections: Ray would end the process after a minute."""
    if address == "auto":
        _require_no_proxy(ray.util.get_node_ip_address())
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"a Ray address is HOST:PORT, ray://HOST:PORT or auto, got {address!r}; the head prints it")
    _require_no_proxy(host.strip("[]"))
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S):
        pass


def _require_no_proxy(host: str) -> None:
    """Raises ValueError if Ray is told to use proxies and one is set for the host: Ray would wait for minutes."""
    is_used = os.environ.get(_USE_PROXY, "0").lower() in ("1", "true")
    explained = proxy_explained(host, variables=GRPC) if is_used else None
    if explained is not None:
        raise UserError(f"Ray must reach {host} directly, and {_USE_PROXY} is set: {explained}, or unset it")


def n_cpus_available() -> int:
    """CPUs of the connected cluster, all nodes together; at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
