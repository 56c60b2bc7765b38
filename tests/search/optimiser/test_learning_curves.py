# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import check_grad

from search.optimiser.learning_curves import (
    LEVEL_VARIANCE,
    NOISE_VARIANCE,
    CurveModel,
    Curves,
    Scales,
    _objective,
    fit_scales,
)

SCALES = Scales(lengths=np.array([0.4, 0.9]), point=0.8, shape=0.5, offset=0.2, walk=0.3)
GROUPS = np.array([0, 1, 1])  # the second dimension is a choice of two


def random_curves(seed, *, n_trials=6):
    """Trials with one to three rungs, the last of which ends them."""
    generator = np.random.default_rng(seed)
    points = np.column_stack([generator.random(n_trials), np.eye(2)[generator.integers(2, size=n_trials)]])
    observations = [
        (i, remaining) for i in range(n_trials) for remaining in (1.0, 0.5, 0.0)[: generator.integers(1, 4)]
    ]
    trial = np.array([i for i, _ in observations])
    remaining = np.array([share for _, share in observations])
    errors = points[trial, 0] ** 2 + 0.5 * remaining + 0.05 * generator.standard_normal(len(trial))
    return Curves(points, GROUPS, trial, remaining, errors)


def covariance(first, second):
    """Of two observations (point, trial, share that remains), written out."""
    (x, i, u), (y, j, v) = first, second
    lengths = SCALES.lengths[GROUPS]
    r = math.sqrt(sum(((a - b) / length) ** 2 for a, b, length in zip(x, y, lengths, strict=True)))
    matern = (1 + math.sqrt(5) * r + 5 * r**2 / 3) * math.exp(-math.sqrt(5) * r)
    walk = min(u, v)
    own = (SCALES.offset**2 + SCALES.walk**2 * walk) if i == j else 0.0
    return LEVEL_VARIANCE * (1 + walk) + (SCALES.point**2 + SCALES.shape**2 * walk) * matern + own


@pytest.mark.parametrize("seed", range(3))
def test_the_posterior_is_that_of_the_dense_formula(seed):
    curves = random_curves(seed)
    seen = [(curves.points[i], i, u) for i, u in zip(curves.trial, curves.remaining, strict=True)]
    new = (np.array([0.3, 1.0, 0.0]), -1, 0.0)
    finals = [*((point, i, 0.0) for i, point in enumerate(curves.points)), new]
    k = np.array([[covariance(a, b) for b in seen] for a in seen]) + NOISE_VARIANCE * np.eye(len(seen))
    across = np.array([[covariance(a, b) for b in seen] for a in finals])
    centre, unit = curves.log_errors.mean(), curves.log_errors.std()
    means = centre + across @ np.linalg.solve(k, curves.log_errors - centre)
    before = np.array([covariance(a, a) for a in finals])
    before[-1] -= SCALES.offset**2  # what the new point decides, without the trial's noise
    variances = before - np.einsum("ij,ij->i", across, np.linalg.solve(k, across.T).T)

    model = CurveModel(curves, SCALES)
    found_means, found_deviations = (
        np.concatenate(pair) for pair in zip(model.of_trials(), model.of_new(new[0][None]), strict=True)
    )
    np.testing.assert_allclose(found_means, means, atol=1e-8)
    np.testing.assert_allclose(found_deviations, unit * np.sqrt(variances), rtol=1e-5)


def test_every_rung_of_a_trial_makes_its_end_more_certain_and_the_last_one_makes_it_known():
    others = random_curves(3)
    deviations = []
    for n_rungs in (1, 2, 3):
        curves = Curves(
            points=np.vstack([others.points, [0.5, 1.0, 0.0]]),
            groups=GROUPS,
            trial=np.append(others.trial, [len(others.points)] * n_rungs),
            remaining=np.append(others.remaining, [1.0, 0.5, 0.0][:n_rungs]),
            log_errors=np.append(others.log_errors, [0.8, 0.5, 0.3][:n_rungs]),
        )
        deviations.append(CurveModel(curves, SCALES).of_trials()[1][-1] / np.std(curves.log_errors))
    assert deviations == sorted(deviations, reverse=True)
    assert deviations[-1] < 0.01


def test_the_gradient_of_the_fit_is_that_of_its_objective():
    curves = random_curves(4)
    centre = Scales.prior(2).logarithms()
    start = SCALES.logarithms()
    error = check_grad(
        lambda x: _objective(curves, x, centre)[0],
        lambda x: _objective(curves, x, centre)[1],
        start,
    )
    assert error < 1e-4


def test_a_dimension_that_decides_nothing_gets_the_greater_length():
    generator = np.random.default_rng(0)
    points = generator.random((40, 2))
    trial = np.arange(40)
    curves = Curves(points, np.array([0, 1]), trial, np.zeros(40), np.sin(6.0 * points[:, 0]))
    lengths = fit_scales(curves).lengths
    assert lengths[1] > 3.0 * lengths[0]


def test_equal_curves_give_equal_scales():
    first, second = (fit_scales(random_curves(5, n_trials=150)) for _ in range(2))
    assert first.logarithms().tolist() == second.logarithms().tolist()


def test_draws_are_functions_with_the_posterior_of_what_the_point_decides():
    curves = random_curves(1)
    points = np.array([[0.3, 1.0, 0.0], [0.31, 1.0, 0.0], [0.9, 0.0, 1.0]])
    model, unit = CurveModel(curves, SCALES), curves.log_errors.std()
    drawn = model.draws(points, np.random.default_rng(0), 20_000)
    means, deviations = model.of_new(points)
    np.testing.assert_allclose(drawn.mean(axis=0), means, atol=0.02 * unit)
    np.testing.assert_allclose(drawn.std(axis=0), deviations, rtol=0.03)
    assert np.corrcoef(drawn.T)[0, 1] > 0.99  # neighbours are drawn together


@pytest.mark.parametrize("seed", range(3))
def test_what_is_predicted_without_a_trial_is_what_a_model_without_it_foretells(seed):
    curves = random_curves(seed)
    predicted = CurveModel(curves, SCALES).leave_one_out()
    for i in range(len(curves.points)):
        others, own = np.flatnonzero(curves.trial != i), np.flatnonzero(curves.trial == i)
        last = own[-1]
        seen = [(curves.points[curves.trial[k]], curves.trial[k], curves.remaining[k]) for k in others]
        k = np.array([[covariance(a, b) for b in seen] for a in seen]) + NOISE_VARIANCE * np.eye(len(seen))
        across = np.array([covariance((curves.points[i], i, curves.remaining[last]), b) for b in seen])
        centre = curves.log_errors.mean()  # of all, which is all that the trial itself is used for
        expected = centre + across @ np.linalg.solve(k, curves.log_errors[others] - centre)
        assert predicted[i] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("new", [[], [[0.7, 0.0, 1.0], [0.2, 1.0, 0.0]]], ids=["old trials alone", "new trials too"])
def test_a_model_that_goes_on_from_another_is_the_one_of_all_observations(new):
    curves = random_curves(0)
    points = np.array(new).reshape(-1, 3)
    more = curves.with_final(points, [2, 4, *range(6, 6 + len(points))], [0.3, 0.1, *(0.2 for _ in points)])
    at_once, in_two_steps = CurveModel(more, SCALES), CurveModel(more, SCALES, before=CurveModel(curves, SCALES))
    np.testing.assert_allclose(in_two_steps.of_trials(), at_once.of_trials(), rtol=1e-6)
    assert len(in_two_steps.of_new(np.empty((0, 3)))[0]) == 0


def test_a_model_takes_over_what_it_shares_with_another_and_no_more():
    curves, scales = random_curves(0), replace(SCALES)
    other = curves.with_final(np.array([[0.7, 0.0, 1.0]]), [2, 6], [0.3, 0.1])
    changed = replace(other, remaining=np.where(np.arange(len(other.trial)) == 5, 0.7, other.remaining))
    assert (changed.n_common_first(other), other.n_common_first(curves)) == (5, len(curves.trial))
    fresh = CurveModel(changed, scales).of_trials()
    for before in (CurveModel(other, scales), CurveModel(other, SCALES), CurveModel(changed, scales)):
        np.testing.assert_allclose(CurveModel(changed, scales, before=before).of_trials(), fresh, rtol=1e-6)
