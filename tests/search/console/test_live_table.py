# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
from dataclasses import replace

import pytest

from search.console.live_table import LiveTable
from search.console.progress import ConsoleReporter
from search.records.objective import COSINE
from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import TrialRecord, TrialState
from spaces.recipe import RecipeSpec
from tests.search.toy_search import TEACHER, rung

RUNNING = TrialRecord(
    number=3,
    point={"n_layers": 4},
    spec=TEACHER,
    recipe=RecipeSpec(),
    seed=0,
    predicted_latency_ms=2.125,
)
MEASURED = replace(RUNNING, rungs=(rung(12_000, 0.93125),))
DOMINATED = Outcome(OutcomeKind.DOMINATED, "at 12,000 tokens by trial-0001 and trial-0002", (1, 2))
PRUNED = replace(MEASURED, state=TrialState.PRUNED, outcome=DOMINATED)


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self):
        return True


def tell(table):
    with table:
        table.trial_started(RUNNING)
        table.rung_reached(MEASURED)
        table.trial_ended(PRUNED)


def test_without_a_terminal_each_event_is_one_plain_line():
    file = io.StringIO()
    tell(LiveTable(n_rungs=3, objective=COSINE, deadline=100.0, clock=lambda: 29.0, file=file))
    assert file.getvalue().splitlines() == [
        "trial-0003 begins: 4 x 32, 4 heads, dense 64, 2.12 ms predicted",
        "trial-0003 rung 1 of 3: fidelity 0.9313 after 12,000 tokens, 100 tokens/s, 1:11 left",
        "trial-0003 pruned: dominated: at 12,000 tokens by trial-0001 and trial-0002",
    ]


def test_a_complete_trial_and_a_continued_one_have_lines_of_their_own():
    file = io.StringIO()
    with LiveTable(n_rungs=1, objective=COSINE, file=file) as table:
        table.trial_started(replace(RUNNING, continues=1))
        table.trial_ended(replace(MEASURED, state=TrialState.COMPLETE, outcome=Outcome(OutcomeKind.COMPLETE)))
    assert file.getvalue().splitlines() == [
        "trial-0003 continues trial-0001: 4 x 32, 4 heads, dense 64, 2.12 ms predicted",
        "trial-0003 complete: fidelity 0.9313, 2.12 ms, 4 x 32, 4 heads, dense 64",
    ]


def test_on_a_terminal_a_table_shows_every_column(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    file = Terminal()
    tell(LiveTable(n_rungs=3, objective=COSINE, n_trials=16, deadline=4000.0, clock=lambda: 29.0, file=file))
    shown = file.getvalue()
    for word in ("trial-0003", "4 x 32, 4 heads, dense 64", "1/3", "0.9313", "2.12 ms", "pruned"):
        assert word in shown
    assert "1 of 16 trials, 1 pruned, 1:06:11 left" in shown


def test_a_trial_that_cannot_be_built_is_shown_with_its_reason(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    refused = replace(
        RUNNING,
        spec=None,
        recipe=None,
        predicted_latency_ms=None,
        state=TrialState.REFUSED,
        outcome=Outcome(OutcomeKind.CANNOT_BE_BUILT, "n_heads must divide the width"),
    )
    for file in (io.StringIO(), Terminal()):
        with LiveTable(n_rungs=3, objective=COSINE, file=file) as table:
            table.trial_ended(refused)
        assert "refused: cannot be built" in file.getvalue()


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("n", [0, 200])
def test_a_table_fits_its_terminal(monkeypatch, n, columns):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("COLUMNS", str(columns))
    file = Terminal()
    with LiveTable(n_rungs=3, objective=COSINE, n_trials=300, deadline=1e6, clock=lambda: 0.0, file=file) as table:
        for number in range(n):
            table.trial_ended(replace(PRUNED, number=number))
        lines = ["".join(segment.text for segment in line) for line in table._console.render_lines(table._render())]
    assert len(lines) < 24
    assert max(map(len, lines)) <= columns
    if n:
        rows = [line for line in lines if "trial-0" in line]
        assert "trial-0199" in rows[-1]
        for row in rows:  # one line each, and what matters is whole
            assert "0.9313" in row and "pruned" in row
            assert ("4 x 32" in row) == (columns >= 80)


@pytest.mark.parametrize("settings", [{"TERM": "dumb"}, {"TERM": "xterm", "FORCE_COLOR": "1"}], ids=["dumb", "forced"])
def test_what_cannot_be_redrawn_gets_lines(monkeypatch, settings):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    file = io.StringIO() if "FORCE_COLOR" in settings else Terminal()
    tell(LiveTable(n_rungs=3, objective=COSINE, file=file))
    ConsoleReporter(file).step("caching the teacher")(1, 2)
    assert "\x1b[2K" not in file.getvalue() and "\x1b[?25l" not in file.getvalue()  # erased lines, a hidden cursor
    assert [line.partition(" ")[0] for line in file.getvalue().splitlines()] == ["trial-0003"] * 3 + ["["]


def test_a_bar_ends_with_its_command_however_that_ends(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    with pytest.raises(KeyboardInterrupt), ConsoleReporter(file) as reporter:
        reporter.step("analysing 320 trials")(1, 9)
        raise KeyboardInterrupt
    shown = file.getvalue()
    assert "\x1b[?25l" in shown and shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back
