# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from search.optimiser.failure_model import (
    LOCAL_DEVIATION,
    LOCAL_LENGTH,
    MEAN,
    MEAN_DEVIATION,
    SLOPE_DEVIATION,
    FailureModel,
)

GENERATOR = np.random.default_rng(3)


def test_nothing_fails_before_anything_has_failed():
    columns = GENERATOR.random((5, 2))
    assert FailureModel(columns, np.zeros(5, bool)).probability(columns).tolist() == [0.0] * 5


@pytest.mark.parametrize("n", [1, 2, 40])
def test_the_log_odds_are_those_of_the_largest_posterior_density(n):
    columns = GENERATOR.random((n, 3))
    failed = columns[:, 0] >= np.median(columns[:, 0])
    asked = GENERATOR.random((20, 3))
    everything = np.concatenate([columns, asked])
    centred = everything - 0.5
    apart = np.sum((everything[:, None] - everything) ** 2, axis=2)
    covariance = MEAN_DEVIATION**2 + SLOPE_DEVIATION**2 * centred @ centred.T
    covariance += LOCAL_DEVIATION**2 * np.exp(-apart / (2.0 * 3 * LOCAL_LENGTH**2))
    covariance += 1e-9 * np.eye(n + 20)
    root = np.linalg.cholesky(covariance)

    def loss(white):
        odds = MEAN + root @ white
        return np.sum(np.logaddexp(0.0, np.where(failed, -odds[:n], odds[:n]))) + white @ white / 2.0

    found = MEAN + root @ minimize(loss, np.zeros(n + 20), method="BFGS", options={"gtol": 1e-7}).x
    np.testing.assert_allclose(FailureModel(columns, failed).probability(asked), expit(found[n:]), atol=2e-4)


def test_a_few_failures_at_one_end_of_a_dimension_tell_where_the_next_will_be():
    columns = GENERATOR.random((30, 6))
    model = FailureModel(columns, columns[:, 2] > 0.85)
    high, low = GENERATOR.random((200, 6)), GENERATOR.random((200, 6))
    high[:, 2], low[:, 2] = 0.97, 0.4
    assert model.probability(high).mean() > 0.3 > 0.03 > model.probability(low).mean()


def test_one_unlucky_trial_among_many_good_ones_closes_no_region():
    columns = GENERATOR.random((40, 4))
    unlucky = np.arange(40) == 7
    probability = FailureModel(columns, unlucky).probability(columns)
    assert 0.1 < probability[7] < 0.6
    assert probability[~unlucky].mean() < 0.03
