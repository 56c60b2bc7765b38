# SPDX-License-Identifier: Apache-2.0
"""Claims about the course of a graduation, played through with a student of known speed."""

from __future__ import annotations

import math
from typing import assert_never

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.graduation.schedule import MIN_STEPS, Advance, Decay, Finish, Limits, decide


def play(limits: Limits, *, speed: float) -> tuple[int, int | None, int | None, float]:
    """(tokens at the end, tokens where the decay began, where it was to end, seconds used)."""
    n_tokens, decay_from, decay_to, used_s = limits.start_tokens, None, None, 0.0
    for _ in range(100_000):
        decision = decide(limits, n_tokens=n_tokens, decay_to=decay_to, used_s=used_s, tokens_per_s=speed)
        match decision:
            case Finish():
                return n_tokens, decay_from, decay_to, used_s
            case Decay(to_tokens):
                assert decay_to is None
                decay_from, decay_to = n_tokens, to_tokens
            case Advance(to_tokens):
                assert to_tokens > n_tokens
                used_s += (to_tokens - n_tokens) / speed
                n_tokens = to_tokens
            case _:
                assert_never(decision)
    raise AssertionError("the graduation does not end")


def limits_of(**changes: float | int | None) -> Limits:
    fields = {"start_tokens": 1_000, "max_tokens": None, "slice_s": None, "decay_share": 0.5, "batch_tokens": 16}
    return Limits(**{**fields, **changes})  # type: ignore[arg-type]


@given(
    start=st.integers(0, 10**6),
    more=st.integers(1, 10**6),
    decay_share=st.floats(0.0, 1.0),
    speed=st.floats(50.0, 1e5),
)
def test_under_a_token_limit_it_ends_exactly_there_after_its_decay(
    start: int, more: int, decay_share: float, speed: float
) -> None:
    limits = limits_of(start_tokens=start, max_tokens=start + more, decay_share=decay_share)
    n_tokens, decay_from, decay_to, _ = play(limits, speed=speed)
    assert n_tokens == start + more
    if decay_from is not None:
        assert decay_to == start + more
        assert start + more - decay_from <= math.ceil(decay_share * more)
        assert start + more - decay_from > decay_share * more - 1


@given(slice_s=st.floats(5.0, 1e4), decay_share=st.floats(0.1, 0.9), speed=st.floats(500.0, 1e5))
def test_under_a_time_limit_it_ends_on_time(slice_s: float, decay_share: float, speed: float) -> None:
    n_tokens, decay_from, _, used_s = play(limits_of(slice_s=slice_s, decay_share=decay_share), speed=speed)
    shortest_s = 2 * MIN_STEPS * 16 / speed
    assert used_s <= max(slice_s, shortest_s) + 2.0
    assert used_s >= slice_s - 2.0
    assert decay_from is not None and n_tokens > decay_from


def test_with_no_time_left_it_still_makes_a_few_steps_and_decays() -> None:
    n_tokens, decay_from, _, _ = play(limits_of(slice_s=0.0), speed=100.0)
    assert decay_from is not None and decay_from >= 1_000 + MIN_STEPS * 16
    assert n_tokens >= decay_from + MIN_STEPS * 16


@given(slice_s=st.floats(0.0, 100.0), max_tokens=st.integers(1_001, 100_000), speed=st.floats(10.0, 1e5))
def test_with_both_limits_neither_is_exceeded(slice_s: float, max_tokens: int, speed: float) -> None:
    n_tokens, _, _, _ = play(limits_of(slice_s=slice_s, max_tokens=max_tokens), speed=speed)
    assert n_tokens <= max_tokens


def test_a_trial_that_has_seen_enough_tokens_graduates_as_it_is() -> None:
    assert decide(limits_of(max_tokens=900), n_tokens=1_000, decay_to=None, used_s=0.0, tokens_per_s=1.0) == Finish()


def test_a_decay_that_was_begun_goes_on_to_its_end() -> None:
    decision = decide(limits_of(slice_s=0.0), n_tokens=1_500, decay_to=1_600, used_s=9.0, tokens_per_s=10.0)
    assert decision == Advance(1_516)
    assert decide(limits_of(slice_s=9.0), n_tokens=1_600, decay_to=1_600, used_s=0.0, tokens_per_s=10.0) == Finish()


def test_a_graduation_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="must end"):
        limits_of()
