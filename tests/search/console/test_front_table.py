# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.console.columns import GAP, ColumnWidth, fit_columns, wrap_parts
from search.console.front_table import DROPPED_FIRST, print_front
from search.console.text import print_text, wrap_line
from search.records.front_table import COLUMNS, rows_of
from tests.search.console.test_live_table import Terminal
from tests.search.report.test_page import front


def printed(file: io.StringIO, **settings: str) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
            patch.delenv(name, raising=False)
        for name, value in {"TERM": "xterm", **settings}.items():
            patch.setenv(name, value)
        print_front(front(), file=file)
    return file.getvalue().splitlines()


def headings(line: str) -> list[str]:
    return [column.heading for column in COLUMNS if f" {column.heading} " in f" {line} "]


@pytest.mark.parametrize("settings", [{"TERM": "dumb"}, {"TERM": "dumb", "NO_COLOR": "1"}], ids=str)
@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_no_cell_is_broken_into_letters(columns: int, settings: dict[str, str]) -> None:
    lines = printed(Terminal(), COLUMNS=str(columns), **settings)
    assert max(map(len, lines)) <= columns
    assert "\x1b" not in "".join(lines)
    words = {
        word for kind, entry in rows_of(front()) for column in COLUMNS for word in column.text(kind, entry).split()
    }
    body = lines[3 : next(i for i, line in enumerate(lines) if line.startswith("latency: "))]
    assert {word for line in body for word in line.split()} <= words


@pytest.mark.parametrize("columns", [1, 27, 40, 60, 80, 100, 120, 160, 200])
def test_columns_are_left_out_in_the_stated_order(columns: int) -> None:
    lines = printed(Terminal(), COLUMNS=str(columns), TERM="dumb")
    shown = headings(next(line for line in lines if line.startswith("name ")))
    left_out = [name for name in DROPPED_FIRST if name not in shown and name != "cosine"]
    assert left_out == [name for name in DROPPED_FIRST if name != "cosine"][: len(left_out)]
    assert {"name", "ms", "cosine"} <= set(shown)
    if columns >= 80:
        assert {"student", "speed-up", "notes"} <= set(shown)


def test_colours_are_left_out_where_nobody_wants_them() -> None:
    assert "\x1b[" in "".join(printed(Terminal(), COLUMNS="80"))
    assert "\x1b[3" not in "".join(printed(Terminal(), COLUMNS="80", NO_COLOR="1")).replace("\x1b[3m", "")
    assert "\x1b" not in "".join(printed(io.StringIO()))


def test_a_pipe_gets_every_column_and_a_row_a_line() -> None:
    for settings in ({}, {"FORCE_COLOR": "1", "TERM": "dumb"}):
        lines = printed(io.StringIO(), **settings)
        assert headings(lines[1]) == [column.heading for column in COLUMNS]
        assert sum(line.startswith(("trial-", "teacher", "static-table")) for line in lines) == 6
        assert not any(line.startswith("not shown") for line in lines)
    assert any(line.startswith("not shown in 80 columns: ") for line in printed(io.StringIO(), COLUMNS="80"))


widths = st.integers(min_value=1, max_value=60).flatmap(
    lambda natural: st.integers(min_value=1, max_value=natural).map(lambda least: ColumnWidth(natural, least))
)


@given(st.dictionaries(st.sampled_from("abcdef"), widths, min_size=1), st.integers(min_value=0, max_value=300))
def test_columns_fit_their_room_and_a_wider_one_shows_no_fewer(columns: dict[str, ColumnWidth], room: int) -> None:
    found = fit_columns(columns, drop_first="cdef", room=room)
    assert list(found) == [name for name in columns if name in found]
    assert all(columns[name].least <= width <= columns[name].natural for name, width in found.items())
    if set(found) & set("cdef"):
        assert sum(found.values()) + GAP * (len(found) - 1) <= room
    assert set(found) <= set(fit_columns(columns, drop_first="cdef", room=room + 1))
    assert set(fit_columns(columns, drop_first="cdef", room=None)) == set(columns)


@given(st.lists(st.text("ab 4", min_size=1).map(str.strip).filter(bool), min_size=1), st.integers(1, 30))
def test_parts_are_wrapped_between_parts_alone(parts: list[str], width: int) -> None:
    text = ", ".join(parts)
    lines = wrap_parts(text, width).split("\n")
    assert " ".join(lines) == text
    for one, other in pairwise(lines):
        assert len(f"{one} {other.split(', ')[0]}") > width - 1


def test_a_long_line_goes_on_under_its_last_column() -> None:
    line = "  yes amx           the processor has AMX with int8 and bfloat16, and AVX-512 with float16"
    assert wrap_line(line, 60).splitlines() == [
        "  yes amx           the processor has AMX with int8 and",
        "                    bfloat16, and AVX-512 with float16",
    ]
    assert (
        wrap_line("hypervolume  29.39% after 25%, 33.96% after 50%", 30).splitlines()[1].startswith(" " * 13 + "33.96%")
    )
    assert wrap_line("package:a-name-longer-than-the-terminal", 20) == "package:a-name-longer-than-the-terminal"
    file = io.StringIO()
    print_text(f"{line}\n{line}", file=file)
    assert file.getvalue() == f"{line}\n{line}\n"
