# SPDX-License-Identifier: Apache-2.0
"""Serves the MLflow UI of a store: one worker, on loopback, until Ctrl-C.

The server has no authentication: whoever reaches the port can read and delete what the store holds. So it binds to
loopback by default; from another machine, forward the port with ssh.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

from runtime.proxies import is_loopback, proxy_explained
from runtime.signals import end_with_parent
from search.cli.browser import open_when_served
from search.storage.store import Store
from search.tracking.relocation import relocate
from search.tracking.runs_page import runs_page
from spaces.errors import UserError

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 5000
STOP_SECONDS = 10.0  # wait after SIGTERM before SIGKILL

SERVER_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 2 processes instead of 9
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


def serve_ui(
    store: Store,
    *,
    port: int = DEFAULT_PORT,
    host: str = LOOPBACK,
    say: Callable[[str], None] = lambda line: None,
    browse: bool = False,
) -> int:
    """Serves the store's MLflow UI until Ctrl-C (KeyboardInterrupt propagates) or until the server exits.

    It says the address of the runs of the latest study, and with `browse` opens it in a browser. Returns the server's
    exit status. For a store that tracks on a remote server it only says that server's addresses and returns 0. Raises
    ValueError if there is no store or the port is taken.
    """
    store.require_exists()
    if store.on_server:
        say(f"the MLflow UI of {store.root} is the server's own: {store.tracking_uri}")
        with suppress(UserError):  # it does not answer now
            _say_page(f"{store.tracking_uri}/{runs_page(store)}", say)
        return 0
    relocate(store)
    require_free(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    page = f"{address}/{runs_page(store)}"
    say(f"the MLflow UI of {store.root} is at {address} (Ctrl-C stops it)")
    if is_loopback(host) and (proxy := proxy_explained(host)):
        say(f"warning: clients with the variables of this shell do not reach it: {proxy}")
    _say_page(page, say)
    environment = {**os.environ, **SERVER_ENVIRONMENT}
    # the server writes a line for every request to stdout
    server = subprocess.Popen(
        server_command(store, port=port, host=host),
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # a signal to this process's group is passed on by `stop`, once
        preexec_fn=end_with_parent,
    )
    try:
        if browse:  # starts a thread, which must not be there at the fork for `preexec_fn`
            open_when_served(page, host=host, port=port)
        return server.wait()
    finally:
        stop(server)


def _say_page(page: str, say: Callable[[str], None]) -> None:
    say(f"the runs of the latest study, with the front as a chart: {page}")


def server_command(store: Store, *, port: int, host: str = LOOPBACK) -> list[str]:
    """The server's command line; run it with `SERVER_ENVIRONMENT` in its environment."""
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", store.tracking_uri),
        *("--registry-store-uri", store.tracking_uri),
        *("--artifacts-destination", store.artifact_uri),
        *("--host", host, "--port", str(port), "--workers", "1"),
    ]


def require_free(host: str, port: int) -> None:
    """Raises ValueError unless a server can listen on the port."""
    if not 1 <= port <= 65535:
        raise UserError(f"a port is a number from 1 to 65535, got {port}; try --port {DEFAULT_PORT}")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise UserError(
            f"the UI must be able to listen on {host}:{port}: {error.strerror or error}; choose another with --port"
        ) from None


def stop(server: subprocess.Popen[bytes]) -> None:
    """Terminates a server that leads a session, and its worker; kills them after `STOP_SECONDS` or a second signal."""
    try:
        if server.poll() is None:
            server.terminate()  # MLflow passes it on to its worker
            server.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
