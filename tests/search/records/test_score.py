# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.optimiser.pareto import dominates
from search.records.objective import COSINE, COSINE_CENTRED, OVERLAP_AT_10, SPEARMAN
from search.records.score import score

fidelities = st.floats(-1.0, 1.0)
latencies = st.floats(1e-3, 1e3)


def test_halving_the_error_adds_one():
    assert score(0.05, 2.0) - score(0.1, 2.0) == pytest.approx(1.0)


def test_doubling_the_speed_adds_the_speed_weight():
    assert score(0.1, 4.0, speed_weight=0.3) - score(0.1, 2.0, speed_weight=0.3) == pytest.approx(0.3)


@given(st.sampled_from([COSINE, COSINE_CENTRED, SPEARMAN, OVERLAP_AT_10]), fidelities, latencies, fidelities, latencies)
def test_a_dominated_student_never_scores_higher(objective, fidelity, latency, other_fidelity, other_latency):
    if dominates((latency, fidelity), (other_latency, other_fidelity)):
        better, worse = objective.error(fidelity), objective.error(other_fidelity)
        assert score(better, 1.0 / latency) >= score(worse, 1.0 / other_latency)


def test_the_teacher_has_a_finite_score():
    assert math.isfinite(score(COSINE.error(1.0), 1.0))


def test_nan_scores_below_everything():
    assert score(COSINE.error(math.nan), 100.0) == -math.inf < score(2.0, 1e-6)


@pytest.mark.parametrize(("error", "speedup"), [(0.1, 0.0), (0.0, 1.0)])
def test_what_is_not_positive_is_refused(error, speedup):
    with pytest.raises(ValueError, match="positive"):
        score(error, speedup)
