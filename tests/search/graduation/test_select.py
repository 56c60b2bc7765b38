# SPDX-License-Identifier: Apache-2.0
"""Claims about which trials graduate."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.graduation.select import choose_graduates
from search.optimiser.pareto import dominates
from search.records.objective import COSINE
from search.records.trial import RungRecord, TrialRecord, TrialState
from spaces.recipe import RecipeSpec
from spaces.student import Dense, EncoderSpec, StaticSpec, StudentSpec
from trainers.measure.fidelity import Fidelity


def record_of(number: int, latency_ms: float, cosine: float, *, n_layers: int = 1, **changes: object) -> TrialRecord:
    encoder = None
    if n_layers:
        feed_forward = Dense(units=16)
        encoder = EncoderSpec(
            n_layers=n_layers, width=8, n_heads=2, head_width=4, feed_forward=feed_forward, max_tokens=16
        )
    spec = StudentSpec(vocabulary_size=10, output_dim=8, encoder=encoder, static=StaticSpec())
    fidelity = Fidelity(
        cosine=cosine,
        cosine_p5=cosine,
        cosine_centred=cosine,
        spearman=cosine,
        overlap_at_1=cosine,
        overlap_at_10=cosine,
        constant_baseline=0.1,
    )
    rung = RungRecord(n_tokens=100, fidelity=fidelity, loss=0.1, seconds=1.0, tokens_per_s=100.0)
    record = TrialRecord(
        number=number,
        point={},
        spec=spec,
        recipe=RecipeSpec(),
        seed=0,
        predicted_latency_ms=latency_ms,
        state=TrialState.COMPLETE,
        rungs=(rung,),
        checkpoint=Path("somewhere"),
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def test_only_complete_and_finite_trials_with_a_checkpoint_graduate() -> None:
    good = record_of(0, 1.0, 0.9)
    bad = [
        record_of(1, 0.5, 0.99, state=TrialState.PRUNED),
        record_of(2, 0.5, 0.99, state=TrialState.INTERRUPTED),
        record_of(3, 0.5, 0.99, checkpoint=None),
        record_of(4, 0.5, float("nan")),
        record_of(5, 0.5, 0.99, rungs=()),
    ]
    assert choose_graduates([*bad, good], max_students=8, objective=COSINE) == [good]
    assert choose_graduates([bad[0], *bad[2:]], max_students=8, objective=COSINE) == []


def test_an_interrupted_trial_graduates_only_if_none_of_its_depth_is_complete() -> None:
    interrupted = record_of(0, 1.0, 0.9, n_layers=1, state=TrialState.INTERRUPTED)
    assert choose_graduates([interrupted], max_students=8, objective=COSINE) == [interrupted]
    of_another_depth = record_of(1, 2.0, 0.5, n_layers=2)
    both = [interrupted, of_another_depth]
    assert choose_graduates(both, max_students=8, objective=COSINE) == both
    of_its_depth = record_of(2, 1.0, 0.5, n_layers=1)
    chosen = choose_graduates([interrupted, of_another_depth, of_its_depth], max_students=8, objective=COSINE)
    assert chosen == [of_its_depth, of_another_depth]


points = st.lists(st.tuples(st.floats(0.01, 100.0), st.floats(0.0, 1.0)), min_size=1, max_size=30)


@given(points, st.integers(1, 12))
def test_a_large_front_sends_both_ends_and_nobody_that_another_dominates(
    found: list[tuple[float, float]], most: int
) -> None:
    records = [record_of(i, latency_ms, cosine) for i, (latency_ms, cosine) in enumerate(found)]
    chosen = choose_graduates(records, max_students=most, objective=COSINE)
    assert 1 <= len(chosen) <= most
    assert len({record.number for record in chosen}) == len(chosen)
    front = {point for point in found if not any(dominates(other, point) for other in found)}
    on_front = {(r.predicted_latency_ms, r.fidelity.cosine) for r in chosen if r.fidelity} & front
    assert len(on_front) == min(most, len(front))
    if most >= 2:
        assert {min(front), max(front)} <= on_front


def test_graduates_of_a_large_front_are_spread_over_it() -> None:
    front = [record_of(i, 2.0**i, 1.0 - 2.0**-i) for i in range(1, 9)]
    crowd = [record_of(100 + i, 2.0 * (1 + 1e-4 * i), 0.5 + 1e-4 * i) for i in range(1, 9)]
    chosen = choose_graduates([*front, *crowd], max_students=4, objective=COSINE)
    assert [record.number for record in chosen if record.number >= 100] in ([], [101], [108])
    gaps = [b.predicted_latency_ms / a.predicted_latency_ms for a, b in pairwise(chosen)]  # type: ignore[operator]
    assert max(gaps) <= 8.0 + 1e-9


def test_a_small_front_is_filled_with_other_depths_first_then_with_those_near_it() -> None:
    front = record_of(0, 1.0, 0.95, n_layers=3)
    near = record_of(1, 1.1, 0.949, n_layers=3)
    far_but_of_another_depth = record_of(2, 1.2, 0.5, n_layers=1)
    far = record_of(3, 1.3, 0.5, n_layers=3)
    records = [front, near, far_but_of_another_depth, far]
    assert [r.number for r in choose_graduates(records, max_students=2, objective=COSINE)] == [0, 2]
    assert [r.number for r in choose_graduates(records, max_students=8, objective=COSINE)] == [0, 1, 2]


def test_a_trial_that_still_learns_graduates_before_one_that_stands_still() -> None:
    def with_curve(number: int, latency_ms: float, *cosines: float) -> TrialRecord:
        (rung,) = record_of(number, latency_ms, cosines[-1]).rungs
        assert rung.fidelity is not None
        return record_of(
            number,
            latency_ms,
            cosines[-1],
            rungs=tuple(
                replace(rung, n_tokens=100 * 3**i, fidelity=replace(rung.fidelity, cosine=cosine))
                for i, cosine in enumerate(cosines)
            ),
        )

    still, learning, far = with_curve(0, 1.0, 0.9, 0.9), with_curve(1, 1.1, 0.7, 0.85), with_curve(2, 1.2, 0.3, 0.35)
    assert choose_graduates([still, learning, far], max_students=2, objective=COSINE) == [still, learning]
    worse = with_curve(3, 1.1, 0.9, 0.85)
    assert choose_graduates([still, worse, far], max_students=1, objective=COSINE) == [still]


def test_of_equal_points_the_earliest_graduates() -> None:
    equal = [record_of(i, 1.0, 0.9) for i in range(3)]
    assert choose_graduates(equal, max_students=1, objective=COSINE) == equal[:1]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_choice_does_not_depend_on_the_order_of_trials(most: int) -> None:
    records = [record_of(i, 1.0 + i, 0.5 + 0.05 * i, n_layers=i % 3) for i in range(8)]
    chosen = choose_graduates(records, max_students=most, objective=COSINE)
    assert choose_graduates(records[::-1], max_students=most, objective=COSINE) == chosen


def test_a_student_whose_trial_was_interrupted_again_and_again_graduates_once() -> None:
    first, second, third = (
        record_of(n, 1.0, 0.9, state=TrialState.INTERRUPTED, continues=None if n == 0 else n - 1) for n in range(3)
    )
    assert choose_graduates([first, second, third], max_students=8, objective=COSINE) == [third]
