# SPDX-License-Identifier: Apache-2.0
"""Chooses the columns of a table that fit a terminal, so that no cell is broken into letters.

As the terminal narrows, first the columns that may shrink do, then whole columns are left out in a stated order. A
table whose last columns do not fit either is wider than its terminal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

GAP = 2
"""Blanks between two columns."""


@dataclass(frozen=True, slots=True)
class ColumnWidth:
    """The width that a column needs."""

    natural: int
    """Characters of its longest cell or its heading."""
    least: int
    """Characters to which it may shrink; `natural` for a column that may not."""

    @classmethod
    def of(
        cls, heading: str, cells: Sequence[str], *, wrap_to: int | None = None, cut_to: int | None = None
    ) -> ColumnWidth:
        """The width of a column with these cells: fixed, or one that wraps between words, or one whose cells are cut.

        A column that wraps is never narrower than its longest word.
        """
        natural = max(map(len, (heading, *cells)))
        least = natural if wrap_to is None and cut_to is None else max(len(heading), wrap_to or 0, cut_to or 0)
        if wrap_to is not None:
            least = max(least, *(len(word) for text in (heading, *cells) for word in text.split()))
        return cls(natural, min(natural, least))


def fit_columns(columns: dict[str, ColumnWidth], *, drop_first: Sequence[str], room: int | None) -> dict[str, int]:
    """Width by heading of the columns that are shown in `room` characters (None: no limit), in their order.

    `drop_first` are headings, in the order in which they are left out; other columns always stay.
    """
    kept = dict(columns)
    if room is None:
        return {heading: column.natural for heading, column in kept.items()}
    for heading in drop_first:
        if _total(kept) <= room:
            break
        kept.pop(heading, None)
    spare, widths = max(0, room - _total(kept)), {}
    for heading, column in kept.items():
        widths[heading] = min(column.natural, column.least + spare)
        spare -= widths[heading] - column.least
    return widths


def wrap_parts(text: str, width: int) -> str:
    """The text with line breaks between its comma-separated parts, each line within `width` where a part allows."""
    if len(text) <= width:
        return text
    lines: list[str] = []
    for part in re.findall(r".+?(?:, |$)", text):
        if lines and len((lines[-1] + part).rstrip()) <= width:
            lines[-1] += part
        else:
            lines.append(part)
    return "\n".join(line.rstrip() for line in lines)


def _total(columns: dict[str, ColumnWidth]) -> int:
    return sum(column.least for column in columns.values()) + GAP * max(0, len(columns) - 1)
