# SPDX-License-Identifier: Apache-2.0
"""A Ctrl-C that does not get lost.

Python raises KeyboardInterrupt wherever the main thread is. In a destructor, a callback from C or an `except` that
catches too much it ends there, and the command goes on as if nothing had been said.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Self


class Interrupts:
    """Within the block a Ctrl-C raises KeyboardInterrupt, as ever, and is remembered."""

    def __init__(self) -> None:
        self._seen = False
        self._previous: signal._HANDLER = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere signals are not ours to handle
            self._previous = signal.getsignal(signal.SIGINT)
            if self._previous is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._previous)

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was one that went no further."""
        if self._seen:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._seen = True
        raise KeyboardInterrupt
