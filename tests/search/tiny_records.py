# SPDX-License-Identifier: Apache-2.0
"""Trials and students with numbers that nobody measured."""

from __future__ import annotations

from collections.abc import Sequence

from search.records.outcomes import Outcome
from search.records.trial import RungRecord, TrialRecord, TrialState
from spaces.recipe import RecipeSpec
from spaces.student import Dense, EncoderSpec, Projection, StaticSpec, StudentSpec
from trainers.measure.fidelity import Fidelity

WORDS = ["[UNK]", "the", "cat", "dog", "sleeps", "runs"]


def fidelity(cosine: float) -> Fidelity:
    """Of a student with this mean cosine."""
    return Fidelity(
        cosine=cosine,
        cosine_p5=cosine - 0.1,
        cosine_centred=cosine - 0.03,
        spearman=cosine + 0.001,
        overlap_at_1=cosine - 0.2,
        overlap_at_10=cosine - 0.15,
        constant_baseline=0.292,
    )


def spec_of(n_layers: int) -> StudentSpec:
    """A student of so many layers."""
    if n_layers == 0:
        return StudentSpec(vocabulary_size=len(WORDS), output_dim=6, static=StaticSpec())
    encoder = EncoderSpec(
        n_layers=n_layers,
        width=8,
        n_heads=2,
        head_width=4,
        feed_forward=Dense(units=12),
        max_tokens=10,
        projection=Projection.LINEAR,
    )
    return StudentSpec(vocabulary_size=len(WORDS), output_dim=6, encoder=encoder)


def record(
    number: int,
    *,
    state: TrialState = TrialState.RUNNING,
    rungs: Sequence[float] = (),
    outcome: Outcome | None = None,
    continues: int | None = None,
) -> TrialRecord:
    """A trial with a rung for every cosine."""
    made = tuple(
        RungRecord(n_tokens=1000 * (i + 1), fidelity=fidelity(cosine), loss=0.3, seconds=1.5, tokens_per_s=700.0)
        for i, cosine in enumerate(rungs)
    )
    return TrialRecord(
        number=number,
        point={"n_layers": 2, "units": 12},
        spec=spec_of(2),
        recipe=RecipeSpec(),
        seed=5,
        predicted_latency_ms=4.0,
        state=state,
        rungs=made,
        outcome=outcome,
        continues=continues,
    )
