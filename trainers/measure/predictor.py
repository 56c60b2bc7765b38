# SPDX-License-Identifier: Apache-2.0
"""A student's latency from its spec alone, learnt from a calibration.

The model is a linear combination of a call's parts: dispatching operations, matrix products, element-wise passes,
the Switch layers' routing, each at a cost per unit that is never negative. At one latency profile batch and length are
constants, so terms that differ only by them (attention's scores and its heads, say) share one cost. The costs minimise
the squared relative error, with a mild ridge because a calibration has hardly more points than terms.

On torch and NumPy block-sparse matrices run dense; on the engine they are a kind of product of their own, and
reading the weights costs beside computing with them. A Switch layer runs one product per expert that some token chose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from spaces.profile import LatencyProfile
from spaces.student import Dense, EncoderSpec, Pooling, StudentSpec, Switch
from trainers.measure.backends.runtimes import backend_of
from trainers.measure.calibration import Calibration, CalibrationPoint
from trainers.measure.fidelity import rank_correlation

RIDGE = 0.1  # of 0, 0.01 and 0.1 the best on 32 of 97 random architectures (error 4.6, 4.5, 4.5%; largest 49, 44, 40%)
N_FOLDS = 10
MIN_CROSS_VALIDATED = 3
MIN_LATENCY_MS = 1e-3  # no call of a runtime in Python is faster


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorError:
    """Prediction error on unseen architectures."""

    median_absolute_percentage_error: float
    """Median of |predicted / measured - 1|, in percent."""
    rank_correlation: float
    """Spearman's correlation of predicted and measured latencies."""
    n: int
    """Architectures compared."""

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return {
            "median_absolute_percentage_error": self.median_absolute_percentage_error,
            "rank_correlation": self.rank_correlation,
            "n": self.n,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyPredictor:
    """Predicts latencies on the machine and under the profile of its calibration."""

    calibration: Calibration
    """The measurements that it was fitted to."""
    costs_ms: dict[str, float]
    """Milliseconds per unit of every term of `latency_terms`."""

    @classmethod
    def fit(cls, calibration: Calibration) -> LatencyPredictor:
        """The predictor of least squared relative error on all points of the calibration."""
        costs_ms = _fit(calibration.points, calibration.profile)
        return cls(calibration=calibration, costs_ms=costs_ms)

    def predict(self, spec: StudentSpec) -> float:
        """The student's latency in milliseconds, beside a teacher of `calibration.teacher_latency_ms`."""
        terms = latency_terms(spec, self.calibration.profile)
        return max(MIN_LATENCY_MS, sum(self.costs_ms[name] * units for name, units in terms.items()))

    def error_on(self, points: Sequence[CalibrationPoint]) -> PredictorError:
        """The error on measured architectures; they should be unseen."""
        return _error([self.predict(point.spec) for point in points], points)

    def cross_validated(self) -> PredictorError:
        """The error on each calibrated student, predicted from the teacher and the other folds' architectures.

        Equal architectures share a fold. Raises ValueError with fewer than 3 different students.
        """
        teacher, *students = self.calibration.points
        specs = list(dict.fromkeys(point.spec for point in students))
        if len(specs) < MIN_CROSS_VALIDATED:
            raise ValueError(
                f"cross-validation needs at least {MIN_CROSS_VALIDATED} different students, got {len(specs)}; "
                "calibrate on more"
            )
        fold_of = {specs[i]: n % N_FOLDS for n, i in enumerate(np.random.default_rng(0).permutation(len(specs)))}
        predicted, held_out = [], []
        for fold in sorted(set(fold_of.values())):
            seen = [teacher] + [point for point in students if fold_of[point.spec] != fold]
            predictor = LatencyPredictor(calibration=self.calibration, costs_ms=_fit(seen, self.calibration.profile))
            unseen = [point for point in students if fold_of[point.spec] == fold]
            predicted += [predictor.predict(point.spec) for point in unseen]
            held_out += unseen
        return _error(predicted, held_out)


def latency_terms(spec: StudentSpec, profile: LatencyProfile) -> dict[str, float]:
    """Units of everything that takes time in a call; all terms are present, 0 where a student has none of them."""
    n_tokens = float(profile.batch_size * profile.n_tokens)
    terms = {"call": 1.0} | _encoder_terms(spec.encoder, profile, n_tokens=n_tokens)
    static, columns = 0.0, 0
    if spec.static is not None:
        static, columns = 1.0, spec.static.embedding_dim or spec.output_dim
    terms["static path"] = static
    terms["static values gathered"] = n_tokens * columns
    terms["static expansion"] = float(spec.static is not None and spec.static.embedding_dim is not None)
    terms["sum of both paths"] = float(spec.static is not None and spec.encoder is not None)
    return terms


def _encoder_terms(encoder: EncoderSpec | None, profile: LatencyProfile, *, n_tokens: float) -> dict[str, float]:
    names = (
        "embeddings", "embedding expansion", "layers", "flops", "values normalised", "values activated",
        "heads", "attention values", "mean pooling", "projection", "Switch layers", "Switch values scattered",
        "experts called", "expert flops", "expert bytes", "weights read", "sparse flops", "sparse weights read",
    )  # fmt: skip
    terms = dict.fromkeys(names, 0.0)
    if encoder is None:
        return terms
    width, depth = encoder.width, encoder.n_layers
    attention_weights = 4 * encoder.attention_width * width
    terms["embeddings"] = 1.0
    terms["layers"] = depth
    terms["flops"] = depth * 2.0 * n_tokens * attention_weights
    if encoder.embedding_dim is not None:
        terms["embedding expansion"] = 1.0
        terms["flops"] += 2.0 * n_tokens * width * encoder.embedding_dim
    terms["values normalised"] = (1 + 2 * depth) * n_tokens * width
    terms["heads"] = float(depth * profile.batch_size * encoder.n_heads)
    terms["attention values"] = depth * n_tokens * 3 * encoder.attention_width
    terms["mean pooling"] = float(encoder.pooling is Pooling.MEAN)
    terms["projection"] = float(encoder.projection is not None)
    units = encoder.feed_forward.units
    terms["values activated"] = depth * n_tokens * units
    feed_forward_weights = 2 * units * width
    match encoder.feed_forward:
        case Dense():
            terms["flops"] += depth * 2.0 * n_tokens * feed_forward_weights
        case Switch(n_experts=n_experts):
            n_called = n_experts * (1.0 - (1.0 - 1.0 / n_experts) ** n_tokens)  # if tokens choose at random
            terms["Switch layers"] = depth
            terms["Switch values scattered"] = depth * n_tokens * width
            terms["experts called"] = depth * n_called
            terms["expert flops"] = depth * 2.0 * n_tokens * feed_forward_weights
            terms["expert bytes"] = depth * n_called * 4.0 * feed_forward_weights
        case _:
            assert_never(encoder.feed_forward)
    return terms | (_sparse_terms(encoder, terms) if backend_of(profile.runtime).skips_zero_blocks else {})


def _sparse_terms(encoder: EncoderSpec, terms: dict[str, float]) -> dict[str, float]:
    """Terms of runtimes that skip zero blocks and whose time depends on reading weights."""
    weights = float(encoder.n_layers * 4 * encoder.attention_width * encoder.width)
    if isinstance(encoder.feed_forward, Dense):
        weights += float(encoder.n_layers * 2 * encoder.feed_forward.units * encoder.width)
    kept = 1.0 - encoder.sparsity
    if encoder.sparsity == 0.0:
        return {"weights read": weights}
    return {"flops": 0.0, "sparse flops": kept * terms["flops"], "sparse weights read": kept * weights}


def _fit(points: Sequence[CalibrationPoint], profile: LatencyProfile) -> dict[str, float]:
    """Non-negative cost per unit of each term."""
    rows = [latency_terms(point.spec, profile) for point in points]
    names = list(rows[0])
    latencies_ms = np.array([point.latency_ms for point in points])
    shares = np.array([[row[name] for name in names] for row in rows]) / latencies_ms[:, None]
    scale = np.sqrt((shares**2).mean(axis=0))
    scale[scale == 0.0] = math.inf  # a term that no point has costs nothing
    penalty = math.sqrt(RIDGE) * np.eye(len(names))
    target = np.concatenate([np.ones(len(points)), np.zeros(len(names))])
    solution, _ = nnls(np.concatenate([shares / scale, penalty]), target)
    return dict(zip(names, (solution / scale).tolist(), strict=True))


def _error(predicted_ms: Sequence[float], points: Sequence[CalibrationPoint]) -> PredictorError:
    predicted: NDArray[np.float64] = np.array(predicted_ms)
    measured: NDArray[np.float64] = np.array([point.latency_ms for point in points])
    return PredictorError(
        median_absolute_percentage_error=float(100.0 * np.median(np.abs(predicted / measured - 1.0))),
        rank_correlation=rank_correlation(predicted, measured),
        n=len(points),
    )
