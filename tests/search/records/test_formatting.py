# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.records.formatting import format_megabytes, format_ms, format_speedup, format_tick


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0.0312, "0.0312"), (0.25, "0.250"), (2.4, "2.40"), (152.3, "152"), (99.999, "100"), (0.00332, "0.00332")),
        *((1234.0, "1,230"), (999.9, "1,000"), (0.0, "0"), (math.inf, "inf"), (1.0, "1.00")),
    ],
)
def test_milliseconds_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert format_ms(value) == text


def test_speed_ups_and_sizes_are_plain_numbers() -> None:
    assert [format_speedup(value) for value in (1.0, 19.25, 3290.4, 123456.0)] == [
        "1.00x",
        "19.2x",
        "3,290x",
        "123,000x",
    ]
    assert [format_megabytes(n_bytes) for n_bytes in (3200, 88_000_000, 1.8e9)] == ["0.00320", "88.0", "1,800"]
    assert [format_tick(value) for value in (1e-5, 0.2, 1.0, 1e6, 20.0)] == ["0.00001", "0.2", "1", "1,000,000", "20"]


@given(st.floats(min_value=1e-9, max_value=1e12))
def test_what_is_shown_is_the_number_to_three_digits(value: float) -> None:
    shown = format_ms(value)
    assert "e" not in shown
    assert abs(Decimal(shown.replace(",", "")) - Decimal(value)) <= Decimal("0.00501") * Decimal(value)
