# SPDX-License-Identifier: Apache-2.0
"""Samples the architectures of a space that the latency calibration measures, spread evenly over their FLOPs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import assert_never

import numpy as np

from spaces.cost import cost
from spaces.domain import Choice, Domain, Integer, Real, Value
from spaces.profile import LatencyProfile
from spaces.space import Space
from spaces.student import StudentSpec
from spaces.study.spec import StudySpec

N_DRAWS = 600  # points; the quickstart's space has about 40 architectures
N_ARCHITECTURES = 36
MAX_FAILURES = 200  # consecutive draws that are invalid or duplicates before sampling stops


def sample_architectures(
    study: StudySpec, teacher: StudentSpec, *, n: int = N_ARCHITECTURES, seed: int = 0
) -> tuple[StudentSpec, ...]:
    """At most `n` different students of the study's space; equal seeds give equal ones.

    First the initial points, the static student and the teacher truncated to some depths, which suffices for small
    spaces. Then, of `N_DRAWS` random points, those at evenly spaced ranks of FLOPs from the lowest to the highest, so
    that the predictor rarely extrapolates.
    """
    generator = np.random.default_rng(seed)
    specs: dict[StudentSpec, None] = {}
    for point in study.initial_points:
        _decode_into(specs, study.space, point, teacher)
    for n_layers in sorted({0, 1, teacher.n_layers // 2, teacher.n_layers - 1}):
        _decode_into(specs, Space(domains={}), {"n_layers": max(0, n_layers)}, teacher)
    first = list(specs)[:n]
    n_failures = 0
    for _ in range(N_DRAWS):
        if n_failures >= MAX_FAILURES:
            break
        is_new = _decode_into(specs, study.space, draw_point(study.space, generator), teacher)
        n_failures = 0 if is_new else n_failures + 1
    others = sorted((spec for spec in specs if spec not in first), key=lambda spec: _flops_order(spec, study.profile))
    n_left = n - len(first)
    if len(others) > n_left:
        others = [others[i] for i in np.linspace(0, len(others) - 1, n_left).round().astype(int)] if n_left else []
    return (*first, *others)


def draw_point(space: Space, generator: np.random.Generator) -> dict[str, Value]:
    """A random point: every active dimension uniform over its domain, or log-uniform where the domain is `log`."""
    point: dict[str, Value] = {}
    for name in space.names:
        if space.active(point, name):
            point[name] = _draw(space.domains[name], generator)
    return point


def _draw(domain: Domain, generator: np.random.Generator) -> Value:
    match domain:
        case Choice():
            return domain.options[int(generator.integers(len(domain.options)))]
        case Integer():
            values = domain.values()
            if not domain.log:
                return values[int(generator.integers(len(values)))]
            return min(domain.high, round(math.exp(generator.uniform(math.log(domain.low), math.log(domain.high)))))
        case Real():
            if domain.log:
                return min(domain.high, math.exp(generator.uniform(math.log(domain.low), math.log(domain.high))))
            return float(generator.uniform(domain.low, domain.high))
        case _:
            assert_never(domain)


def _decode_into(
    specs: dict[StudentSpec, None], space: Space, point: Mapping[str, Value], teacher: StudentSpec
) -> bool:
    """Adds the point's student to `specs`; returns whether it is valid and new."""
    n = len(specs)
    try:
        specs[space.decode(point, teacher)[0]] = None
    except ValueError:
        return False
    return len(specs) > n


def _flops_order(spec: StudentSpec, profile: LatencyProfile) -> tuple[int, str]:
    counted = cost(spec, batch_size=profile.batch_size, n_tokens=profile.n_tokens)
    return (counted.flops, str(spec.to_json()))
