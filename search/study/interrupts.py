# SPDX-License-Identifier: Apache-2.0
"""Keeps a Ctrl-C from being swallowed; SIGTERM and SIGHUP are handled alike.

Python raises KeyboardInterrupt wherever the main thread is. In a destructor or a C callback it is printed and the
command continues: there it is raised again a second later. In a too broad `except` it is swallowed silently:
`Interrupts.check`, called between steps, raises it again.
"""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import ExitStack
from types import FrameType
from typing import TYPE_CHECKING, Self

from runtime.signals import REPEAT_S, ending_signals, without_repeats

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


class Interrupts:
    """A context manager: within it these signals raise KeyboardInterrupt and are recorded for `check`.

    The handlers of a program that calls `run_search` stay.
    """

    def __init__(self) -> None:
        self._seen: int | None = None  # the number of the last signal
        self._timer: threading.Timer | None = None  # sends a swallowed one again
        self._block = ExitStack()

    def __enter__(self) -> Self:
        self._block.enter_context(ending_signals(without_repeats(self._handle), only_defaults=True))
        self._block.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
        self._report, sys.unraisablehook = sys.unraisablehook, self._raise_again
        return self

    def __exit__(self, *error: object) -> None:
        self._cancel()
        self._block.close()

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was a signal since the block was entered."""
        if self._seen is not None:
            self._cancel()
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._seen = number
        raise KeyboardInterrupt

    def _raise_again(self, ignored: UnraisableHookArgs) -> None:
        if self._seen is None or not issubclass(ignored.exc_type, KeyboardInterrupt):
            self._report(ignored)
            return
        self._cancel()
        self._timer = threading.Timer(REPEAT_S, signal.pthread_kill, [threading.get_ident(), self._seen])
        self._timer.daemon = True
        self._timer.start()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
