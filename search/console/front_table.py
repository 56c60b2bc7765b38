# SPDX-License-Identifier: Apache-2.0
"""Prints a front as a table on the terminal, references below the students."""

from __future__ import annotations

from typing import IO

from search.records.formatting import describe_profile
from search.records.front import Front
from search.records.front_table import COLUMNS, baseline_of, rows_of


def print_front(front: Front, *, file: IO[str] | None = None) -> None:
    """Prints the front as a table to `file` (None: stdout)."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=escape(f"{front.study}: students of {front.teacher}"),
        caption=escape(
            f"latency: {describe_profile(front.profile)}; fidelity: {front.objective.label}; "
            f"a constant vector has a cosine of {baseline_of(front)}"
        ),
        header_style="bold",
    )
    for column in COLUMNS:
        table.add_column(column.heading, justify="left" if column.value is None else "right", overflow="fold")
    styles = {"student": "", "dominated": "dim", "reference": "italic"}
    previous = "student"
    for kind, entry in rows_of(front):
        if kind != previous:
            table.add_section()
        previous = kind
        table.add_row(*(Text(column.text(kind, entry)) for column in COLUMNS), style=styles[kind])
    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console.width = 200  # a pipe has no width: avoid truncated cells
    console.print(table)
