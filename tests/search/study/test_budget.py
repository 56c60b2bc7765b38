# SPDX-License-Identifier: Apache-2.0
"""Claims about the splitting of a time budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.graduation.schedule import balance, time_weights
from search.study.budget import TEXT_SIZES, TimePlan, n_sentences
from search.study.clock import Clock


def plan_of(budget_s: float | None, *, share: float = 0.45, max_students: int = 8) -> TimePlan:
    return TimePlan(budget_s=budget_s, graduation_share=share, max_students=max_students)


def test_the_quickstarts_nine_minutes_are_split_as_documented() -> None:
    plan = plan_of(540.0)
    assert plan.reserve_s == 25.0 + 8 * 3.0
    assert plan.cache_s == pytest.approx(70.2)
    assert plan.calibration_s(40) == pytest.approx(16.2)
    assert plan.table_s(2_000_000) == pytest.approx(16.2)
    assert plan.measure_s(15) == pytest.approx(15.0)
    assert plan.search_s(120.0) == pytest.approx(0.55 * 540.0 - 120.0)
    assert plan.graduation_s(297.0) == pytest.approx(540.0 - 297.0 - 49.0)


@given(
    budget_s=st.floats(1.0, 1e6),
    share=st.floats(0.01, 0.95),
    preparation=st.floats(0.0, 1.0),
    max_students=st.integers(1, 50),
)
def test_phases_never_exceed_the_budget(budget_s: float, share: float, preparation: float, max_students: int) -> None:
    plan = plan_of(budget_s, share=share, max_students=max_students)
    spent = preparation * (budget_s - plan.reserve_s)
    search = plan.search_s(spent)
    assert search is not None
    graduation = plan.graduation_s(spent + search)
    assert graduation is not None
    assert search >= 0.0 and graduation >= 0.0
    assert spent + search + graduation + plan.reserve_s <= budget_s * (1 + 1e-9) + 1e-6


def test_a_slow_preparation_leaves_the_search_a_share_of_what_is_left() -> None:
    plan = plan_of(600.0)
    left = 600.0 - plan.reserve_s - 400.0
    assert plan.search_s(400.0) == pytest.approx(0.4 * left)


def test_without_a_budget_only_counts_limit_a_study() -> None:
    plan = plan_of(None)
    assert (plan.cache_s, plan.search_s(1e9), plan.graduation_s(1e9)) == (None, None, None)


def test_a_clock_goes_on_from_what_earlier_commands_spent() -> None:
    now = [1000.0]
    clock = Clock(spent_s=40.0, now=lambda: now[0])
    now[0] += 2.5
    assert clock.spent_s() == pytest.approx(42.5)


@given(fitting=st.floats(0.0, 1e7), available=st.integers(1, 10**6), before=st.integers(0, 10**6))
def test_the_cached_text_is_on_the_ladder_and_never_shrinks(fitting: float, available: int, before: int) -> None:
    before = min(before, available)
    n = n_sentences(fitting, available=available, at_least=before)
    assert n in (*TEXT_SIZES, available, before)
    assert before <= n <= available
    if n > max(before, TEXT_SIZES[0]):
        assert n <= fitting


@given(st.lists(st.floats(1.0, 1e6), min_size=1, max_size=20))
def test_slower_students_get_more_time_and_faster_ones_more_tokens(speeds: list[float]) -> None:
    weights = time_weights(speeds)
    assert sum(weights) == pytest.approx(1.0)
    for i, speed in enumerate(speeds):
        for j, other in enumerate(speeds):
            if speed <= other:
                assert weights[i] >= weights[j] * (1 - 1e-9)
                assert weights[i] * speed <= weights[j] * other * (1 + 1e-9)


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20), st.integers(1, 5))
def test_every_student_is_in_one_group_and_no_group_exceeds_its_share_by_more_than_one(
    weights: list[float], n_groups: int
) -> None:
    groups = balance(weights, n_groups)
    assert sorted(index for group in groups for index in group) == list(range(len(weights)))
    assert all([weights[i] for i in group] == sorted(weights[i] for i in group) for group in groups)
    fair = sum(weights) / n_groups
    assert all(sum(weights[i] for i in group) <= fair + max(weights) + 1e-9 for group in groups)
