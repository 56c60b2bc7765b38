# SPDX-License-Identifier: Apache-2.0
"""The predictor recovers costs that it was not told, and never predicts that more work takes less time."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.profile import LatencyProfile, Runtime
from spaces.student import Dense, EncoderSpec, FeedForward, Projection, StaticSpec, StudentSpec, Switch
from trainers.measure.calibration import Calibration, CalibrationPoint
from trainers.measure.predictor import LatencyPredictor, latency_terms
from trainers.modules.build import build

PROFILE = LatencyProfile(runtime=Runtime.TORCH)
COSTS_MS = {  # like those of a machine
    "call": 0.03,
    "layers": 0.08,
    "flops": 1.4e-8,
    "values normalised": 6e-6,
    "values activated": 5e-6,
    "heads": 4e-3,
    "projection": 0.05,
    "Switch layers": 0.08,
    "experts called": 0.08,
    "expert bytes": 9e-8,
    "static path": 0.03,
    "static values gathered": 3e-7,
}


def random_spec(generator: np.random.Generator) -> StudentSpec:
    def draw(*options: int) -> int:
        return options[int(generator.integers(len(options)))]

    static = StaticSpec(embedding_dim=draw(32, 64, 128)) if generator.random() < 0.5 else None
    n_layers = draw(0, 1, 2, 4, 6)
    if n_layers == 0:
        return StudentSpec(vocabulary_size=1000, output_dim=384, static=static or StaticSpec())
    width, units = draw(96, 192, 384), draw(64, 256, 512, 1536)
    feed_forward: FeedForward = Dense(units=units)
    if generator.random() < 0.3:
        feed_forward = Switch(n_experts=draw(2, 4, 8), units=units)
    encoder = EncoderSpec(
        n_layers=n_layers,
        width=width,
        n_heads=draw(2, 4, 12),
        head_width=8,
        feed_forward=feed_forward,
        max_tokens=64,
        projection=None if width == 384 else Projection.LINEAR,
    )
    return StudentSpec(vocabulary_size=1000, output_dim=384, encoder=encoder, static=static)


def true_latency_ms(spec: StudentSpec) -> float:
    terms = latency_terms(spec, PROFILE)
    return sum(cost * terms[name] for name, cost in COSTS_MS.items())


def synthetic(n: int, *, seed: int, noise: float = 0.0) -> Calibration:
    generator = np.random.default_rng(seed)
    specs = [random_spec(generator) for _ in range(n)]
    points = tuple(
        CalibrationPoint(
            spec=spec, latency_ms=true_latency_ms(spec) * float(np.exp(noise * generator.standard_normal()))
        )
        for spec in specs
    )
    return Calibration(profile=PROFILE, machine="imagined", points=points)


def test_costs_that_are_a_sum_of_terms_are_recovered_on_unseen_architectures() -> None:
    predictor = LatencyPredictor.fit(synthetic(40, seed=0))
    error = predictor.error_on(synthetic(60, seed=1).points)
    assert error.n == 60
    assert error.median_absolute_percentage_error < 2.0
    assert error.rank_correlation > 0.99


def test_noise_of_five_percent_costs_about_five_percent() -> None:
    error = LatencyPredictor.fit(synthetic(40, seed=2, noise=0.05)).error_on(synthetic(60, seed=3).points)
    assert error.median_absolute_percentage_error < 6.0
    assert error.rank_correlation > 0.98


def test_cross_validation_finds_the_error_on_the_unseen() -> None:
    exact = LatencyPredictor.fit(synthetic(40, seed=0)).cross_validated()
    assert exact.n == 39, "every student once, the teacher never"
    assert exact.median_absolute_percentage_error < 5.0
    noisy = LatencyPredictor.fit(synthetic(40, seed=0, noise=0.3)).cross_validated()
    assert noisy.median_absolute_percentage_error > 2.0 * exact.median_absolute_percentage_error


def test_an_architecture_never_helps_to_predict_itself() -> None:
    calibration = synthetic(25, seed=4)
    odd = replace(calibration.points[5], latency_ms=1000.0 * calibration.points[5].latency_ms)
    twice = replace(calibration, points=(*calibration.points[:5], odd, odd, *calibration.points[6:]))
    once = replace(calibration, points=(*calibration.points[:5], odd, *calibration.points[6:]))
    predictor = LatencyPredictor.fit(
        replace(calibration, points=tuple(p for p in calibration.points if p.spec != odd.spec))
    )
    assert predictor.predict(odd.spec) < 0.01 * odd.latency_ms
    assert LatencyPredictor.fit(twice).cross_validated().n == LatencyPredictor.fit(once).cross_validated().n + 1


def test_too_few_architectures_cannot_be_cross_validated() -> None:
    calibration = synthetic(10, seed=0)
    few = replace(calibration, points=(*calibration.points[:3], calibration.points[1]))
    with pytest.raises(ValueError, match="at least 3 different students, got 2"):
        LatencyPredictor.fit(few).cross_validated()


@given(
    seed=st.integers(0, 2**32 - 1),
    change=st.sampled_from(["n_layers", "units", "static", "experts"]),
)
def test_more_work_is_never_predicted_to_take_less_time(seed: int, change: str) -> None:
    predictor = LatencyPredictor.fit(synthetic(30, seed=7, noise=0.2))
    spec = random_spec(np.random.default_rng(seed))
    encoder = spec.encoder
    more = spec
    if change == "static" and spec.static is None:
        more = replace(spec, static=StaticSpec(embedding_dim=16))
    elif encoder is not None and change == "n_layers":
        more = replace(spec, encoder=replace(encoder, n_layers=encoder.n_layers + 1))
    elif encoder is not None and change == "units":
        more = replace(
            spec,
            encoder=replace(encoder, feed_forward=replace(encoder.feed_forward, units=2 * encoder.feed_forward.units)),
        )
    elif encoder is not None and isinstance(encoder.feed_forward, Switch):
        wider = replace(encoder.feed_forward, n_experts=encoder.feed_forward.n_experts + 1)
        more = replace(spec, encoder=replace(encoder, feed_forward=wider))
    assert predictor.predict(more) >= predictor.predict(spec) - 1e-12
    assert predictor.predict(spec) > 0.0


def test_zeros_do_not_change_a_prediction_where_they_run_dense() -> None:
    predictor = LatencyPredictor.fit(synthetic(30, seed=8))
    encoder = EncoderSpec(
        n_layers=2, width=384, n_heads=12, head_width=32, feed_forward=Dense(units=1536), max_tokens=64
    )
    spec = StudentSpec(vocabulary_size=1000, output_dim=384, encoder=encoder)
    sparse = replace(spec, encoder=replace(encoder, sparsity=0.9))
    assert predictor.predict(sparse) == predictor.predict(spec)


@pytest.mark.parametrize("feed_forward", [Dense(units=48), Switch(n_experts=3, units=48)])
def test_the_products_are_those_of_the_built_matrices(feed_forward: FeedForward) -> None:
    encoder = EncoderSpec(
        n_layers=3, width=32, n_heads=4, head_width=4, feed_forward=feed_forward, max_tokens=64, embedding_dim=16
    )
    spec = StudentSpec(vocabulary_size=100, output_dim=32, encoder=encoder)
    terms = latency_terms(spec, LatencyProfile(batch_size=2, n_tokens=10))
    one_expert = {
        name: parameter[0] if "experts" in name else parameter
        for name, parameter in build(spec, seed=0).named_parameters()
    }
    multiplied = sum(
        weight.numel()
        for name, weight in one_expert.items()
        if weight.ndim == 2 and "router" not in name and name not in ("embeddings.tokens", "embeddings.positions")
    )
    assert terms["flops"] + terms["expert flops"] == 2 * 20 * multiplied
