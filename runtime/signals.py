# SPDX-License-Identifier: Apache-2.0
"""Signals that end a command: Ctrl-C, SIGTERM and SIGHUP are handled alike, and child processes end with their parent.

A signal that is ignored when the command starts stays ignored, as under nohup or in a shell's background.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What a terminal, Kubernetes, systemd, SLURM and a closed connection send."""
REPEAT_S = 1.0
"""A signal within this time after another is the same request: a shell repeats the terminal's SIGHUP, and systemd sends
SIGTERM and SIGHUP together."""
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here, not after a fork

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def ending_signals(handler: Handler, *, only_defaults: bool = False) -> Iterator[None]:
    """Within the block `handler` is called for the signals of `ENDING`.

    Ignored signals stay ignored; with `only_defaults` the handlers of another program stay too. Does nothing in
    another thread than the main one, because only that can set handlers.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    present = {number: signal.getsignal(number) for number in ENDING} if in_main_thread else {}
    previous = {
        number: before
        for number, before in present.items()
        if before in _DEFAULTS or (callable(before) and not only_defaults)
    }
    try:
        for number in previous:
            signal.signal(number, handler)
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def without_repeats(handler: Handler) -> Handler:
    """The handler, called once for signals that follow each other within `REPEAT_S`."""
    last_s = -REPEAT_S

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= REPEAT_S:
            last_s = now_s
            handler(number, frame)

    return handle


def end_at_once() -> None:
    """From now on these signals end the process without any clean-up; ignored ones stay ignored."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def end_with_parent() -> None:
    """Asks Linux to send SIGTERM to this process once the thread that started it has ended, however it ended.

    For a child process: as its first step, or as `preexec_fn`. Does nothing on other systems.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
