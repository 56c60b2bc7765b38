# SPDX-License-Identifier: Apache-2.0
"""Claims about what a command says of its time budget, and about when it ends before any compute."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from search.storage.store import Store
from search.storage.study_state import StudyState
from search.study.budget import PREPARATION_SHARE, TimePlan
from search.study.clock import CLOCK, Clock
from search.study.run import run_search
from search.study.time_left import PreparationReporter, plan_of_time, time_left_line
from spaces.errors import UserError
from spaces.study import StudySpec, parse_duration, parse_study
from tests.search.reporters import Heard

STUDY = """
name: slow
teachers: [package:some-teacher]
corpus: {sources: [installed-docs]}
search: {rungs: [1000], time_budget: 4m}
space: {n_layers: {low: 0, high: 2}}
"""


@pytest.fixture
def study(tmp_path: Path) -> StudySpec:
    return parse_study(STUDY, folder=tmp_path)


@pytest.fixture
def state(tmp_path: Path) -> StudyState:
    return StudyState.of(Store(tmp_path / "store"), "slow")


def with_budget(study: StudySpec, seconds: float | None) -> StudySpec:
    graduation = replace(study.graduation, n_tokens=2_000)
    return replace(study, search=replace(study.search, time_budget_s=seconds, n_trials=3), graduation=graduation)


def advised(message: str) -> float:
    """Seconds of the time budget that a message advises."""
    found = re.search(r"--time-budget (\d+[smhd])", message)
    assert found is not None, message
    return parse_duration(found[1])


def test_what_is_spent_left_and_needed_is_told_in_minutes_and_seconds(study: StudySpec, state: StudyState) -> None:
    state.write(CLOCK, 75.0)
    line = time_left_line(study, state)
    assert line == (
        "time budget 4:00, for all commands of slow: 1:15 spent, 2:45 left, at least 0:20 needed for a first student"
    )


def test_without_a_time_budget_there_is_nothing_to_tell(study: StudySpec, state: StudyState) -> None:
    state.write(CLOCK, 1e6)
    assert time_left_line(with_budget(study, None), state) is None


@pytest.mark.parametrize("spent_s", [221.0, 240.0, 239.9, 1e4])
def test_a_command_whose_time_is_spent_ends_at_once_and_advises_a_budget_that_is_enough(
    study: StudySpec, state: StudyState, spent_s: float
) -> None:
    state.write(CLOCK, spent_s)
    heard = Heard()
    with pytest.raises(UserError, match="of 4:00 are spent") as raised:
        run_search(study, store=Store(state.folder.parents[1]), progress=heard)
    assert "0:00 left" not in str(raised.value)
    assert heard.lines == []  # no step has begun
    enough = with_budget(study, advised(str(raised.value)))
    assert time_left_line(enough, state) is not None
    seconds = plan_of_time(enough).search_s(spent_s)
    assert seconds is not None and seconds > 20.0


def test_a_budget_below_the_least_is_refused_before_anything_is_spent(study: StudySpec, state: StudyState) -> None:
    with pytest.raises(UserError, match="needs at least 0:20"):
        time_left_line(with_budget(study, 10.0), state)
    assert time_left_line(with_budget(study, 20.0), state) is not None


def test_a_finished_preparation_lowers_what_is_needed(study: StudySpec, state: StudyState) -> None:
    state.folder.mkdir(parents=True)
    (state.folder / "references.json").write_text("{}")
    assert "at least 0:15 needed" in (time_left_line(study, state) or "")


def test_a_study_with_a_measured_trial_goes_on_whatever_its_time(study: StudySpec, state: StudyState) -> None:
    (state.folder / "trials" / "trial-0000" / "rung-1").mkdir(parents=True)
    state.write(CLOCK, 1000.0)
    assert (time_left_line(study, state) or "").endswith("16:40 spent, 0:00 left")
    PreparationReporter(Heard(), study, state, Clock(spent_s=1000.0)).step("anything")


def test_a_slow_preparation_is_told_once_and_ended_when_no_trial_can_follow(
    study: StudySpec, state: StudyState
) -> None:
    now = [0.0]
    heard = Heard()
    reporter = PreparationReporter(heard, study, state, Clock(now=lambda: now[0]))
    bar = reporter.step("one")
    now[0] = PREPARATION_SHARE * 240.0
    reporter.step("two")
    assert heard.lines == ["one", "two"]
    now[0] += 1.0
    reporter.step("three")
    reporter.say("four")
    assert [line for line in heard.lines if line.startswith("warning")] == [heard.lines[2]]
    assert "1:13 of the time budget of 4:00 are spent" in heard.lines[2]
    assert advised(heard.lines[2]) > 240.0
    now[0] = 226.0
    for goes_on in (lambda: bar(1, 2), lambda: reporter.step("five"), lambda: reporter.say("six")):
        with pytest.raises(UserError, match="the preparation is not finished") as raised:
            goes_on()
        assert advised(str(raised.value)) >= 2 * 226.0
    assert "five" not in heard.lines and "six" not in heard.lines


@pytest.mark.parametrize(
    ("step", "seconds", "kind"),
    [
        ("measuring the latency of 36 architectures", 10.0, "fits"),  # 10 s / 0.06 < 4 min
        ("tokenising the corpus for teacher", 50.0, "warned"),  # 50 s / 0.14 is about 6 min
        ("tokenising the corpus for teacher", 110.0, "ended"),  # 13 min
        ("embedding 3,000 sentences with teacher", 110.0, "warned"),  # the same time, but later
        ("measuring the fidelity of 8 references", 60.0, "fits"),
    ],
)
def test_what_is_needed_is_estimated_from_the_step_that_is_reached(
    study: StudySpec, state: StudyState, step: str, seconds: float, kind: str
) -> None:
    heard = Heard()
    reporter = PreparationReporter(heard, study, state, Clock(spent_s=seconds))
    if kind == "ended":
        with pytest.raises(UserError, match="a first student needs about 13:06 here") as raised:
            reporter.step(step)
        assert advised(str(raised.value)) == 14 * 60.0
        return
    reporter.step(step)
    assert heard.lines[-1] == step
    assert (len(heard.lines) == 2 and "may need" in heard.lines[0]) is (kind == "warned")


def test_reading_a_large_text_once_says_nothing_about_the_rest(study: StudySpec, state: StudyState) -> None:
    now = [0.0]
    heard = Heard()
    reporter = PreparationReporter(heard, study, state, Clock(now=lambda: now[0], spent_s=10.0))
    reporter.step("tokenising the corpus for teacher")
    now[0] += 150.0  # a download
    reporter.step("embedding the held-out sentences with teacher")  # 160 s / 0.16 would be 17 minutes
    assert heard.lines[-1].startswith("embedding")


def test_a_calibration_is_not_ended_in_its_middle(study: StudySpec, state: StudyState) -> None:
    now = [0.0]
    reporter = PreparationReporter(Heard(), study, state, Clock(now=lambda: now[0]))
    bar = reporter.step("measuring the latency of 36 architectures")
    now[0] = 230.0
    bar(35, 36)
    with pytest.raises(UserError, match="what is prepared is kept"):
        reporter.step("tokenising the corpus for teacher")


def test_a_command_that_continues_estimates_nothing_from_steps_that_are_done(
    study: StudySpec, state: StudyState
) -> None:
    state.write(CLOCK, 110.0)
    heard = Heard()
    reporter = PreparationReporter(heard, study, state, Clock(spent_s=110.0))
    reporter.step("tokenising the corpus for teacher")
    assert heard.lines == ["tokenising the corpus for teacher"]


def test_without_a_budget_a_preparation_takes_its_time(study: StudySpec, state: StudyState) -> None:
    heard = Heard()
    reporter = PreparationReporter(heard, with_budget(study, None), state, Clock(spent_s=1e6))
    reporter.step("one")(1, 2)
    assert heard.lines == ["one"]


def test_an_advised_budget_is_whole_minutes_and_leaves_two_of_them() -> None:
    plan = TimePlan(budget_s=90.0, graduation_share=0.5, max_students=8)
    assert [plan.advisable_s(spent_s) for spent_s in (0.0, 1.0, 119.0, 121.0, 600.0)] == [120, 180, 240, 300, 1200]
