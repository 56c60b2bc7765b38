# SPDX-License-Identifier: Apache-2.0
"""Keeps a Ctrl-C from being swallowed; SIGTERM and SIGHUP are handled alike.

Python raises KeyboardInterrupt wherever the main thread is. In a destructor, a C callback or a too broad `except` it is
swallowed and the command continues; `Interrupts.check`, called between steps, raises it again.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import FrameType
from typing import Self

from runtime.signals import ending_signals, without_repeats


class Interrupts:
    """A context manager: within it these signals raise KeyboardInterrupt and are recorded for `check`.

    The handlers of a program that calls `run_search` stay.
    """

    def __init__(self) -> None:
        self._seen = False
        self._signals: AbstractContextManager[None] = ending_signals(without_repeats(self._handle), only_defaults=True)

    def __enter__(self) -> Self:
        self._signals.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._signals.__exit__(None, None, None)

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was a signal since the block was entered."""
        if self._seen:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._seen = True
        raise KeyboardInterrupt
