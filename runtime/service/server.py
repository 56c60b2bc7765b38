# SPDX-License-Identifier: Apache-2.0
"""The service as a process: socket, uvicorn and graceful shutdown.

The socket is bound before the student is loaded, so that a port in use is reported at once. SIGINT, SIGTERM and
SIGHUP end the service: requests in progress are finished, new ones refused. A second signal does not wait for them.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from runtime.folder import DOCUMENT_FILE
from runtime.loading import load
from runtime.proxies import is_loopback, proxy_explained
from runtime.service.connection import MAX_HEADER_BYTES, limited_connection
from runtime.service.limits import ServingOptions
from runtime.service.routes import Service, State
from runtime.signals import ending_signals, without_repeats
from spaces.errors import UserError

WAITING_CONNECTIONS = 2048  # as uvicorn has it; the kernel may allow fewer
CLOSING_SECONDS = 25  # Kubernetes kills 30 s after SIGTERM


def serve(
    folder: Path,
    options: ServingOptions,
    *,
    say: Callable[[str], None] = lambda line: None,
    announce: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the student of a folder until SIGINT, SIGTERM or SIGHUP; runs in the main thread.

    `say` receives messages for the user, `announce` the service's address when the student is ready. Raises ValueError
    or OSError when the folder holds no student that can be run, or the address cannot be bound, and
    KeyboardInterrupt after a second signal.
    """
    if not (folder / DOCUMENT_FILE).is_file():
        raise UserError(f"{folder} is not a student folder: it has no {DOCUMENT_FILE}; `understudy export` writes one")
    name = options.name or folder.resolve().name
    with open_socket(options.host, options.port) as listening:
        port = listening.getsockname()[1]
        address = f"http://{f'[{options.host}]' if ':' in options.host else options.host}:{port}"
        if not is_loopback(options.host):
            say(f"warning: {_exposure(options)} {address}; put a proxy before it")
        elif proxy := proxy_explained(options.host):
            say(f"warning: clients with the variables of this shell do not reach {address}: {proxy}")

        def tell() -> None:
            if service.state is State.READY:
                say(f"{name} is served at {address} (Ctrl-C ends it)")
                announce(address)
            else:
                server.should_exit = True

        service = Service(lambda: load(folder), options, name=name, on_loaded=tell)
        server = make_server(service)
        server.run(sockets=[listening])
    if service.failure is not None:
        raise service.failure
    if server.force_exit:
        raise KeyboardInterrupt


def make_server(service: Service) -> uvicorn.Server:
    """A server of the service's application."""
    config = uvicorn.Config(
        service.application(),
        http=limited_connection(service.options),  # h11, whatever else is installed: this is what is tested
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    return _Server(config, service)


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ValueError if that is not possible."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. asyncio sets it for sockets of protocol TCP only, and this one's is 0; without it an
        # answer's body waits 40 ms for the acknowledgement of its headers.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.bind((host, port))
        listening.listen(WAITING_CONNECTIONS)
    except OSError as error:
        listening.close()
        raise UserError(
            f"the service must be able to listen on {host}:{port}: {error.strerror or error}; "
            "choose another with --port or --host"
        ) from None
    return listening


def _exposure(options: ServingOptions) -> str:
    if options.api_key is None:
        return "there is no API key (--api-key-file): everyone can use"
    return "there is no encryption: the key can be read on its way to"


class _Server(uvicorn.Server):
    """Shuts down gracefully on a signal and does not raise it again, as uvicorn would, so that the exit status is 0."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles SIGHUP like uvicorn's own signals, and leaves ignored ones ignored."""
        with ending_signals(without_repeats(self.handle_exit)):
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.refuse_new()
        if self.should_exit:
            self.force_exit = True
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # requests are cancelled on purpose
        self.should_exit = True
