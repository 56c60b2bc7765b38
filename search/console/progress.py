# SPDX-License-Identifier: Apache-2.0
"""Reports the steps of a study on stderr: a progress bar on a terminal that can move its cursor, else lines.

Trials have a table of their own (`search.console.live_table`); this is for the steps before and after.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Protocol, Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from search.console.terminal import TerminalConsole, is_live

LINE_INTERVAL_S = 15.0  # minimum time between two lines of one step without a terminal

Bar = Callable[[int, int], None]
"""A progress function, called with (done, total) of a step."""


class Reporter(Protocol):
    """Receives the steps and messages of a study."""

    def step(self, what: str) -> Bar:
        """Begins a step, which ends the previous one; returns its progress function."""

    def say(self, line: str) -> None:
        """Prints a line that stays on the screen; ends the current step."""


def clock_text(seconds: float) -> str:
    """Minutes and seconds, `1:05`, or hours too, `2:00:30`; a negative time is `0:00`."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class ConsoleReporter:
    """Progress bars on a terminal, else lines with the elapsed time.

    As a context manager it ends the last bar, however the block ends: a bar hides the cursor and redraws its line.
    """

    def __init__(self, file: IO[str] | None = None, *, announce: bool = True, spent_s: float = 0.0) -> None:
        """`file` None is stderr. Without a terminal a step is announced by a line, unless `announce` is False: then
        only a step of more than `LINE_INTERVAL_S` seconds has lines. `spent_s` are the seconds that earlier commands
        spent on the study, with which the shown time begins."""
        self._announce = announce
        self._console = TerminalConsole(file=file, stderr=file is None, highlight=False)
        self._started = time.monotonic() - spent_s
        self._bars: Progress | None = None

    def __enter__(self) -> Self:
        """Returns the reporter."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the current step."""
        self.end()

    def step(self, what: str) -> Bar:
        """Shows a progress bar, or prints a line at most every `LINE_INTERVAL_S` seconds."""
        self.end()
        return self._bar(what) if is_live(self._console) else self._lines(what)

    def say(self, line: str) -> None:
        """Prints a line; ends the current step."""
        self.end()
        self._print(line)

    def _bar(self, what: str) -> Bar:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        bars = Progress(*columns, console=self._console, transient=True)
        task: TaskID = bars.add_task(what, total=None)
        bars.start()
        self._bars = bars
        return lambda done, total: bars.update(task, completed=done, total=total)

    def _lines(self, what: str) -> Bar:
        if self._announce:
            self._print(what)
        last_line_s = time.monotonic()

        def advance(done: int, total: int) -> None:
            nonlocal last_line_s
            if total > 0 and done < total and time.monotonic() - last_line_s >= LINE_INTERVAL_S:
                last_line_s = time.monotonic()
                self._print(f"{what}: {done / total:.0%}")

        return advance

    def end(self) -> None:
        """Ends the current step."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _print(self, line: str) -> None:
        seconds = int(time.monotonic() - self._started)
        self._console.print(f"[{seconds // 60:3d}:{seconds % 60:02d}] {line}", markup=False, soft_wrap=True)
