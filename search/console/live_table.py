# SPDX-License-Identifier: Apache-2.0
"""Shows a running search: a live table on a terminal, else one line for each event.

A narrow terminal leaves out columns (`DROPPED_FIRST`). A terminal that cannot move its cursor (`TERM=dumb`) gets lines.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import IO, Self

from rich.console import Group, JustifyMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

from search.console.columns import GAP, ColumnWidth, fit_columns
from search.console.progress import clock_text
from search.console.terminal import TerminalConsole, is_live
from search.records.formatting import format_ms
from search.records.objective import Objective
from search.records.trial import TrialRecord, TrialState
from spaces.student_words import describe

REFRESHES_PER_S = 2.0
MIN_ROWS = 5  # shown even on a terminal of fewer lines

DROPPED_FIRST = ("latency", "rung", "student")
"""Columns that a narrow terminal leaves out, in this order; never the trial, its fidelity or its state."""

_LEAST = {"student": 20, "state": 11}  # characters of the columns that are cut

_STYLES = {
    TrialState.RUNNING: "cyan",
    TrialState.COMPLETE: "green",
    TrialState.PRUNED: "yellow",
    TrialState.REFUSED: "dim",
    TrialState.FAILED: "red",
    TrialState.INTERRUPTED: "magenta",
}


class LiveTable:
    """An observer that shows trials while they run; use it as a context manager around the search."""

    def __init__(
        self,
        *,
        n_rungs: int,
        objective: Objective,
        n_trials: int | None = None,
        deadline: float | None = None,
        file: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`n_trials` and `deadline` (a time of `clock`) are the search's limits; `file` None is stderr."""
        self._console = TerminalConsole(file=file, stderr=file is None, highlight=False)
        self._n_rungs = n_rungs
        self._objective = objective
        self._n_trials = n_trials
        self._deadline = deadline
        self._clock = clock
        self._records: dict[int, TrialRecord] = {}
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Starts the live table, if the output is a terminal that can move its cursor."""
        if is_live(self._console):
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=REFRESHES_PER_S,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops updating; the last table stays on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def trial_started(self, record: TrialRecord) -> None:
        """Adds the trial's row, or prints a line."""
        verb = "begins" if record.continues is None else f"continues trial-{record.continues:04d}"
        self._update(record, f"{verb}: {describe(record.spec)}, {_latency(record)} predicted")

    def rung_reached(self, record: TrialRecord) -> None:
        """Updates the row's numbers, or prints a line."""
        line = (
            f"rung {len(record.rungs)} of {self._n_rungs}: fidelity {self._fidelity(record)} after {record.n_tokens:,} "
            f"tokens, {record.tokens_per_s:,.0f} tokens/s"
        )
        left = self._time_left()
        self._update(record, line if left is None else f"{line}, {left} left")

    def trial_ended(self, record: TrialRecord) -> None:
        """Updates the row's state, or prints a line with the outcome."""
        if record.state is TrialState.COMPLETE:
            line = f"complete: fidelity {self._fidelity(record)}, {_latency(record)}, {describe(record.spec)}"
        else:
            line = f"{record.state.value}: {record.outcome}"
        self._update(record, line)

    def say(self, line: str) -> None:
        """Prints a line above the table."""
        self._console.print(Text(line), soft_wrap=True)

    def _update(self, record: TrialRecord, line: str) -> None:
        self._records[record.number] = record
        if self._live is None:
            self._console.print(Text(f"{record.name} {line}"), soft_wrap=True)

    def _render(self) -> Group:
        records = [self._records[number] for number in sorted(self._records)]
        running = [record for record in records if record.state is TrialState.RUNNING]
        ended = [record for record in records if record.state is not TrialState.RUNNING]
        summary = self._summary(records)
        n_lines = -(-len(summary) // self._console.width)
        n_rows = max(MIN_ROWS, self._console.size.height - 5 - n_lines)  # header and lines above the table
        n_ended = max(0, n_rows - len(running))
        shown = [*(ended[-n_ended:] if n_ended else []), *running]
        cells = {
            "trial": [record.name for record in shown],
            "student": [describe(record.spec) for record in shown],
            "rung": [f"{len(record.rungs)}/{self._n_rungs}" for record in shown],
            "fidelity": [self._fidelity(record) for record in shown],
            "latency": [_latency(record) for record in shown],
            "state": [_state(record) for record in shown],
        }
        widths = fit_columns(
            {name: ColumnWidth.of(name, texts, cut_to=_LEAST.get(name)) for name, texts in cells.items()},
            drop_first=DROPPED_FIRST,
            room=self._console.width,
        )
        table = Table(expand=False, pad_edge=False, box=None, padding=(0, GAP, 0, 0))
        for name, width in widths.items():
            justify: JustifyMethod = "right" if name in ("rung", "fidelity", "latency") else "left"
            table.add_column(name, justify=justify, width=width, no_wrap=True, overflow="ellipsis")
        for i, record in enumerate(shown):
            styles = [_STYLES[record.state] if name == "state" else "" for name in widths]
            table.add_row(*(Text(cells[name][i], style=style) for name, style in zip(widths, styles, strict=True)))
        return Group(table, Text(summary, style="bold"))

    def _summary(self, records: list[TrialRecord]) -> str:
        counts = Counter(record.state for record in records)
        n_begun = len(records) - counts[TrialState.REFUSED]
        words = [f"{n_begun} trials" if self._n_trials is None else f"{n_begun} of {self._n_trials} trials"]
        words += [f"{counts[state]} {state.value}" for state in TrialState if counts[state]]
        left = self._time_left()
        return ", ".join(words if left is None else [*words, f"{left} left"])

    def _fidelity(self, record: TrialRecord) -> str:
        return "" if record.fidelity is None else self._objective.format(self._objective.of(record.fidelity))

    def _time_left(self) -> str | None:
        if self._deadline is None:
            return None
        return clock_text(self._deadline - self._clock())


def _latency(record: TrialRecord) -> str:
    return "" if record.predicted_latency_ms is None else f"{format_ms(record.predicted_latency_ms)} ms"


def _state(record: TrialRecord) -> str:
    if record.outcome is not None and record.state in (TrialState.REFUSED, TrialState.FAILED):
        return f"{record.state.value}: {record.outcome.label}"
    return record.state.value
