# SPDX-License-Identifier: Apache-2.0
"""What a search tells people while it runs: one line a step, with a bar on a terminal.

Everything goes to stderr. The trials have their own live table; this is for the steps before and after.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import IO, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_EVERY_S = 15.0  # between two lines of one step where there is no terminal

Bar = Callable[[int, int], None]
"""Is told (done, total) of a step."""


class Reporter(Protocol):
    """Is told the steps of a search."""

    def step(self, what: str) -> Bar:
        """A step begins, which ends the one before; how far it is goes to the function that is returned."""

    def say(self, line: str) -> None:
        """A finished sentence: ends the step before and stays on the screen."""


class ConsoleReporter:
    """Bars on a terminal, plain lines with the time elsewhere."""

    def __init__(self, file: IO[str] | None = None) -> None:
        self._console = Console(file=file, stderr=file is None, highlight=False)
        self._started = time.monotonic()
        self._bars: Progress | None = None

    def step(self, what: str) -> Bar:
        """Show a bar that fills, or print a line now and then."""
        self._end_bar()
        return self._bar(what) if self._console.is_terminal else self._lines(what)

    def say(self, line: str) -> None:
        """Print the line."""
        self._end_bar()
        self._print(line)

    def _bar(self, what: str) -> Bar:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        bars = Progress(*columns, console=self._console, transient=True)
        task: TaskID = bars.add_task(what, total=None)
        bars.start()
        self._bars = bars
        return lambda done, total: bars.update(task, completed=done, total=total)

    def _lines(self, what: str) -> Bar:
        self._print(what)
        told = time.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal told
            if total > 0 and done < total and time.monotonic() - told >= PLAIN_EVERY_S:
                told = time.monotonic()
                self._print(f"{what}: {done / total:.0%}")

        return tell

    def _end_bar(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _print(self, line: str) -> None:
        seconds = int(time.monotonic() - self._started)
        self._console.print(f"[{seconds // 60:3d}:{seconds % 60:02d}] {line}", markup=False, soft_wrap=True)
