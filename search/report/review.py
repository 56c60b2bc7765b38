# SPDX-License-Identifier: Apache-2.0
"""A search in review: hypervolume by tokens and time, rungs, Sobol indices, gaps of the front.

Everything is computed from the journal (`search.report.load`) with the searcher's own model, costs and errors, so
that the page says what the searcher saw. Random choices are seeded: the same search gives the same review.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from search.optimiser.pareto import front_of
from search.optimiser.posterior import Posterior
from search.optimiser.sampler import N_NEAR, N_RANDOM, N_ROUNDS
from search.records.objective import Objective
from search.records.trial import TrialRecord, TrialState, trials_once
from search.report.gaps import GapContents, gaps_of, look_into
from search.report.history import Corner, SearchHistory, history_of
from search.report.importance import Array, Booleans, Design, Importance, evaluate, importances
from search.report.load import RecordedSearch
from search.report.rung_counts import Pruned, RungCount, count_rungs, pruned_trials, unmeasured
from search.trials.points import active_point
from spaces.student import StudentSpec
from spaces.student_words import describe

FEWEST_COMPLETE = 8
"""Complete trials: with fewer, shares of a variance are noise."""
LEAST_EXPLAINED = 0.3
"""Share of the complete trials' variance that the model must predict before its Sobol indices mean anything."""
N_MODELS, N_EACH = 8, 8  # models that are fitted to parts of the trials, and draws of each
MOST_ROWS = 1300  # of a joint draw, which takes n^3 operations
N_LATENCY = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """The Sobol indices of all dimensions for one objective."""

    dimensions: tuple[Importance, ...]
    """The largest first; empty if it cannot be said."""
    reason: str = ""
    """Why it cannot be said; empty if it can."""
    explained: float | None = None
    """Share of the complete trials' variance that the model predicts; None for what is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a trial stands among the others, as the searcher counts."""

    record: TrialRecord
    """The trial."""
    cost: float
    """log2 of its predicted milliseconds."""
    error: float
    """At the end; for one that did not get there, the predicted median."""
    on_front: bool
    """Whether it is complete and no other beats it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchReview:
    """What can be said of a search."""

    objective: Objective
    """What fidelity means."""
    records: tuple[TrialRecord, ...]
    """All trials, a continued one once."""
    history: SearchHistory | None
    """None if nothing was measured."""
    ideal: Corner | None
    """As fast as the fastest student that was found in the space, and as faithful as the best complete trial."""
    rungs: tuple[RungCount, ...]
    """What became of the trials at each."""
    unmeasured: dict[str, int]
    """Trials that reached no rung, by what became of them."""
    pruned: tuple[Pruned, ...]
    """With those for whom they were pruned."""
    fidelity: Shares
    """Of the logarithm of the error at the end."""
    latency: Shares
    """Of the logarithm of the predicted latency."""
    places: tuple[Place, ...]
    """All measured trials."""
    gaps: tuple[GapContents, ...]
    """Of the front of the complete trials, by rising latency."""
    n_candidates: int
    """Untried points that were looked at."""
    teacher_ms: float | None
    """The teacher's predicted latency; None if nobody knows it."""
    students: dict[int, str]
    """For each gap with a best candidate, by the gap's number: the student in words."""

    def fidelity_at(self, error: float) -> str:
        """The fidelity that has an error, as people read it."""
        return self.objective.format(self.objective.at_error(error))

    @property
    def complete(self) -> int:
        """Complete trials."""
        return sum(record.state is TrialState.COMPLETE for record in self.records)


def review_search(search: RecordedSearch) -> SearchReview:
    """The review; takes seconds, most of them for the model of a long search."""
    records = search.records
    nothing = Shares(dimensions=(), reason="No trial has reached a rung yet.")
    review = SearchReview(
        objective=search.objective,
        records=trials_once(records),
        history=None,
        ideal=None,
        rungs=count_rungs(records, search.rungs),
        unmeasured=unmeasured(records),
        pruned=pruned_trials(records, search.rungs),
        fidelity=nothing,
        latency=nothing,
        places=(),
        gaps=(),
        n_candidates=0,
        teacher_ms=search.teacher_latency_ms,
        students={},
    )
    view = search.posterior()
    return review if view is None else _with_view(review, search, view)


def _with_view(review: SearchReview, search: RecordedSearch, view: Posterior) -> SearchReview:
    """The review with what the searcher's model has to say."""
    reference = (view.front.cost_limit, view.front.error_limit)
    candidates = view.candidates(np.random.default_rng(0), n_random=N_RANDOM, n_near=N_NEAR, n_rounds=N_ROUNDS)
    fastest_cost = min([*candidates.costs.tolist(), *(trial.cost for trial in view.trials)])
    places = _places(view, {record.number: record for record in search.records})
    complete = [place for place in places if place.record.state is TrialState.COMPLETE]
    gaps = gaps_of(
        [(place.cost, place.error) for place in complete],
        fastest_cost=fastest_cost,
        slowest_cost=reference[0] if review.teacher_ms is None else math.log2(review.teacher_ms),
        worst_error=reference[1],
    )
    front = [place.record.number for place in complete if place.on_front]
    contents = look_into(gaps, view, candidates, front=front)
    return replace(
        review,
        history=history_of(search.trials, reference=reference, objective=search.objective),
        ideal=(fastest_cost, min((place.error for place in complete), default=reference[1])),
        fidelity=_fidelity_shares(search, view),
        latency=_latency_shares(search, view),
        places=places,
        gaps=contents,
        n_candidates=len(candidates.costs),
        students=_students(search, contents),
    )


def _places(view: Posterior, records: dict[int, TrialRecord]) -> tuple[Place, ...]:
    """Of the trials of a view that are not continued by another."""
    once = {record.number for record in trials_once(records.values())}
    found = []
    for trial, mean in zip(view.trials, view.means, strict=True):
        if trial.number in once:
            found.append((records[trial.number], trial.cost, math.exp(trial.last if trial.complete else float(mean))))
    complete = [i for i, (record, _, _) in enumerate(found) if record.state is TrialState.COMPLETE]
    front = {complete[i] for i in front_of([(found[i][1], found[i][2]) for i in complete])}
    return tuple(
        Place(record=record, cost=cost, error=error, on_front=i in front)
        for i, (record, cost, error) in enumerate(found)
    )


def _fidelity_shares(search: RecordedSearch, view: Posterior) -> Shares:
    n_complete = len(view.complete)
    if n_complete < FEWEST_COMPLETE:
        trials = "1 trial is" if n_complete == 1 else f"{n_complete} trials are"
        return Shares(dimensions=(), reason=f"Too few trials to tell: {trials} complete, {FEWEST_COMPLETE} are needed.")
    explained = view.r_squared()
    if explained is None or explained < LEAST_EXPLAINED:
        share = "nothing" if explained is None or explained <= 0.0 else f"{explained:.0%}"
        return Shares(
            dimensions=(),
            reason=f"Too few trials to tell: the model predicts {share} of the variance between complete trials.",
            explained=explained,
        )
    names = _varied(search, view)
    n = 32
    while 2 * n * (len(names) + 2) <= MOST_ROWS:
        n *= 2
    design = Design.of(len(names), n=n)
    coordinates, costs, usable = _students_of(search, view, _whole(view, names, design.rows))
    values = view.draws(coordinates, costs, np.random.default_rng(0), n_models=N_MODELS, n_each=N_EACH)
    found = importances(design, names, values, usable)
    if found is None:
        return Shares(dimensions=(), reason="Too little of the space can be built to tell.", explained=explained)
    return Shares(dimensions=found, explained=explained)


def _latency_shares(search: RecordedSearch, view: Posterior) -> Shares:
    predictor, teacher = search.predictor, search.teacher
    if predictor is None or teacher is None:
        return Shares(dimensions=(), reason="No calibration is left that predicts the latencies of this search.")
    predict = lru_cache(maxsize=None)(predictor.predict)

    def log_latency(row: Array) -> float | None:
        spec = _spec(search, teacher, view.cube.point(row))
        return None if spec is None else math.log(predict(spec))

    names = _varied(search, view)
    design = Design.of(len(names), n=N_LATENCY)
    values, usable = evaluate(_whole(view, names, design.rows), log_latency)
    found = importances(design, names, values, usable)
    if found is None:
        return Shares(dimensions=(), reason="All students of this space that can be built are equally fast.")
    return Shares(dimensions=found)


def _varied(search: RecordedSearch, view: Posterior) -> list[str]:
    """Dimensions that have more than one value."""
    ends = [np.full(len(view.cube.names), share) for share in (0.0, 0.5, 1.0 - 1e-9)]
    points: list[dict[str, Any]] = [view.cube.point(row) for row in ends]
    return [name for name in view.cube.names if len({repr(point[name]) for point in points}) > 1]


def _whole(view: Posterior, names: Sequence[str], rows: Array) -> Array:
    """Coordinates of all dimensions, from those of some; the others have one value."""
    whole = np.full((len(rows), len(view.cube.names)), 0.5)
    whole[:, [view.cube.names.index(name) for name in names]] = rows
    return whole


def _students_of(search: RecordedSearch, view: Posterior, rows: Array) -> tuple[Array, Array, Booleans]:
    """Coordinates of the active part of each row, its cost as far as it is known, and whether a student can have it."""
    assert search.teacher is not None
    points = [active_point(view.cube.point(row), search.space) for row in rows]
    specs = [_spec(search, search.teacher, point) for point in points]
    costs = np.full(len(specs), math.nan)
    if search.predictor is not None:
        predict = lru_cache(maxsize=None)(search.predictor.predict)
        costs[:] = [math.nan if spec is None else math.log2(predict(spec)) for spec in specs]
    usable = np.array([spec is not None for spec in specs])
    return np.array([view.cube.coordinates(point) for point in points]), costs, usable


def _spec(search: RecordedSearch, teacher: StudentSpec, point: dict[str, Any]) -> StudentSpec | None:
    try:
        return search.space.decode(point, teacher)[0]
    except ValueError:
        return None


def _students(search: RecordedSearch, gaps: Sequence[GapContents]) -> dict[int, str]:
    assert search.teacher is not None
    return {
        i: describe(_spec(search, search.teacher, dict(each.best.point)))
        for i, each in enumerate(gaps)
        if each.best is not None
    }
