# SPDX-License-Identifier: Apache-2.0
"""Domains against their definitions by enumeration."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.domain import Choice, Integer, Real


@given(domain=st.from_type(Integer), value=st.integers(-400, 400))
def test_integer_contains_exactly_what_it_lists(domain: Integer, value: int) -> None:
    assert domain.contains(value) == (value in list(domain.values()))


@given(domain=st.from_type(Integer))
def test_integer_reaches_both_ends(domain: Integer) -> None:
    values = list(domain.values())
    assert (values[0], values[-1]) == (domain.low, domain.high)


@given(domain=st.from_type(Real), share=st.floats(0, 1))
def test_real_contains_every_number_between_its_ends(domain: Real, share: float) -> None:
    between = min(max(domain.low + share * (domain.high - domain.low), domain.low), domain.high)
    assert domain.contains(domain.low) and domain.contains(domain.high) and domain.contains(between)
    assert not domain.contains(math.nextafter(domain.low, -math.inf))
    assert not domain.contains(math.nextafter(domain.high, math.inf))


@given(domain=st.from_type(Choice))
def test_choice_contains_exactly_its_options(domain: Choice) -> None:
    assert all(domain.contains(option) for option in domain.options)
    assert not domain.contains("an option that no strategy draws")


@pytest.mark.parametrize("domain", [Real(0, 1), Integer(0, 1), Choice((0, 1))])
@pytest.mark.parametrize("value", [True, False, "0", None, math.nan, math.inf])
def test_switches_words_and_nan_are_no_numbers(domain: Real | Integer | Choice, value: Any) -> None:
    assert not domain.contains(value)


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        (lambda: Real(2, 1), "low must not exceed high"),
        (lambda: Real(0, 1, log=True), "needs low > 0"),
        (lambda: Real(0, math.inf), "finite"),
        (lambda: Real(math.nan, 1), "finite"),
        (lambda: Integer(2, 1), "low must not exceed high"),
        (lambda: Integer(0, 5, step=2), "set high to 4"),
        (lambda: Integer(0, 5, step=0), "at least 1"),
        (lambda: Integer(0, 5, log=True), "low >= 1"),
        (lambda: Integer(1, 5, step=2, log=True), "steps of 1"),
        (lambda: Integer(0.5, 5), "must be an integer"),  # type: ignore[arg-type]
        (lambda: Choice(()), "at least one option"),
        (lambda: Choice((1, 2, 1)), "distinct"),
        (lambda: Choice((math.nan,)), "finite"),
        (lambda: Choice(([],)), "an option must be"),  # type: ignore[arg-type]
    ],
)
def test_impossible_domains_are_refused(build: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        build()
