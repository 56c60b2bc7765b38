# SPDX-License-Identifier: Apache-2.0
"""Keeps a Ctrl-C from being swallowed.

Python raises KeyboardInterrupt wherever the main thread is. In a destructor, a C callback or a too broad `except` it is
swallowed and the command continues; `Interrupts.check`, called between steps, raises it again.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Self


class Interrupts:
    """A context manager: within it a Ctrl-C raises KeyboardInterrupt as usual and is recorded for `check`."""

    def __init__(self) -> None:
        self._seen = False
        self._previous: signal._HANDLER = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # only the main thread can set a handler
            self._previous = signal.getsignal(signal.SIGINT)
            if self._previous is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._previous)

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was a Ctrl-C since the block was entered."""
        if self._seen:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._seen = True
        raise KeyboardInterrupt
