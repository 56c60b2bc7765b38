# SPDX-License-Identifier: Apache-2.0
"""Opens a page in the user's browser, once its server answers."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Mapping
from typing import TextIO

PATIENCE_SECONDS = 300.0  # MLflow's server needs 5 to 20, and more where the machine is busy
POLL_SECONDS = 0.2


def can_open(environment: Mapping[str, str] = os.environ, terminal: TextIO = sys.stderr) -> bool:
    """Whether someone sits before a graphical display of this machine; a browser in the terminal helps nobody."""
    displays = any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return terminal.isatty() and "SSH_CONNECTION" not in environment and (displays or sys.platform == "darwin")


def open_when_served(address: str, *, host: str, port: int) -> None:
    """Opens the address in a browser as soon as its port answers; returns at once."""
    threading.Thread(target=_open, args=(address, host, port), daemon=True).start()


def _open(address: str, host: str, port: int) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        try:
            socket.create_connection((host, port), timeout=1.0).close()
        except OSError:
            time.sleep(POLL_SECONDS)
        else:
            webbrowser.open(address)
            return
