# SPDX-License-Identifier: Apache-2.0
"""Prints a front as a table, references below the students.

A terminal too narrow for all columns shows those that matter most (`DROPPED_FIRST`); a file or a pipe gets all of them,
unless $COLUMNS limits it.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import IO

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from search.console.columns import GAP, ColumnWidth, fit_columns, wrap_parts
from search.console.terminal import TerminalConsole
from search.records.formatting import describe_profile
from search.records.front import Front
from search.records.front_table import COLUMNS, baseline_of, rows_of
from search.records.objective import MEASUREMENTS

DROPPED_FIRST = (
    *("top 1", "5th pct.", "centred", "top 10", "parameters", "95% interval", "Spearman", MEASUREMENTS[0].heading),
    *("version", "speed-up", "student", "notes"),
)
"""Columns that a narrow terminal leaves out, in this order; never the name, the latency or the study's fidelity."""

_WRAP_TO = {"student": 20, "notes": 13}  # least characters of the columns that wrap
_STYLES = {"student": "", "dominated": "dim", "reference": "italic"}


def print_front(front: Front, *, file: IO[str] | None = None) -> None:
    """Prints the front as a table to `file` (None: stdout)."""
    out = sys.stdout if file is None else file
    limited = out.isatty() or os.environ.get("COLUMNS", "").isdigit()
    room = shutil.get_terminal_size().columns if limited else None
    entries = list(rows_of(front))
    cells = {column.heading: [column.text(kind, entry) for kind, entry in entries] for column in COLUMNS}
    widths = fit_columns(
        {name: ColumnWidth.of(name, texts, wrap_to=_WRAP_TO.get(name)) for name, texts in cells.items()},
        drop_first=[name for name in DROPPED_FIRST if name != front.objective.measurement.heading],
        room=room,
    )
    needed = sum(widths.values()) + GAP * (len(widths) - 1)
    # Without a height too, rich gives a dumb terminal 80 columns.
    console = TerminalConsole(file=out, highlight=False, width=max(room or 0, needed), height=25)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in COLUMNS:
        if column.heading in widths:
            table.add_column(
                column.heading, justify="left" if column.value is None else "right", width=widths[column.heading]
            )
    for i, (kind, _) in enumerate(entries):
        if i and kind != entries[i - 1][0]:
            table.add_section()
        table.add_row(*(Text(wrap_parts(cells[name][i], widths[name])) for name in widths), style=_STYLES[kind])
    lines = [
        f"latency: {describe_profile(front.profile)}",
        f"fidelity: {front.objective.label}; a constant vector has a cosine of {baseline_of(front)}",
    ]
    left_out = [name for name in cells if name not in widths]
    if left_out:
        lines.append(f"not shown in {room} columns: {', '.join(left_out)}")
    console.print(Text(f"{front.study}: students of {front.teacher}", style="bold"), soft_wrap=not limited)
    console.print(table)
    for line in lines:
        console.print(Text(line, style="dim"), soft_wrap=not limited)
