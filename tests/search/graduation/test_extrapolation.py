# SPDX-License-Identifier: Apache-2.0
"""Claims about learning-curve extrapolation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.graduation.extrapolation import fidelity_after
from search.records.objective import COSINE

fidelities = st.floats(-1.0, 1.0)


def test_a_power_law_goes_on_as_it_is() -> None:
    curve = [(float(n), 1.0 - 0.9 * n**-0.3) for n in (100, 300, 900)]
    assert fidelity_after(curve, 7200, COSINE) == pytest.approx(1.0 - 0.9 * 7200**-0.3)


@given(st.lists(fidelities, min_size=1, max_size=4), st.floats(1.0, 1e6))
def test_what_is_expected_is_no_less_than_what_was_measured_and_less_than_perfect(
    found: list[float], times: float
) -> None:
    curve = [(100.0 * 3**i, fidelity) for i, fidelity in enumerate(found)]
    expected = fidelity_after(curve, times * curve[-1][0], COSINE)
    assert found[-1] <= expected <= 1.0


@pytest.mark.parametrize("curve", [[(100, 0.7)], [(100, 0.8), (300, 0.7)], [(100, 0.7), (300, 0.7)]])
def test_one_rung_or_a_fall_predicts_the_last_measurement(curve: list[tuple[float, float]]) -> None:
    assert fidelity_after(curve, 10_000, COSINE) == 0.7
