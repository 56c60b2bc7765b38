# SPDX-License-Identifier: Apache-2.0
"""Analyses a search: hypervolume by tokens and time, rungs, Sobol indices, gaps of the front.

Everything is computed from the journal (`search.report.load`) with the surrogate model, costs and errors of the
sampler. Random choices are seeded: the same search gives the same review.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from search.optimiser.pareto import front_of
from search.optimiser.posterior import Posterior
from search.optimiser.sampler import N_NEAR, N_RANDOM, N_ROUNDS
from search.records.objective import Objective
from search.records.trial import TrialRecord, TrialState, trials_once
from search.report.gaps import GapContents, gap_contents, gaps_of
from search.report.history import Corner, SearchHistory, history_of
from search.report.importance import Array, Booleans, Design, Importance, evaluate, importances
from search.report.load import RecordedSearch
from search.report.rung_counts import Pruned, RungCount, count_rungs, pruned_trials, unmeasured
from search.trials.points import active_point
from spaces.domain import Integer, Real
from spaces.student import StudentSpec
from spaces.student_words import describe

MIN_COMPLETE = 8
"""Minimum number of complete trials for Sobol indices of fidelity."""
MIN_EXPLAINED = 0.3
"""Minimum share of the complete trials' variance that the model must explain for Sobol indices of fidelity."""
N_MODELS, N_DRAWS_EACH = 8, 8  # models, each fitted to a part of the trials, and draws from each
MAX_ROWS = 1300  # of a joint draw, which takes O(n^3)
N_LATENCY = 1024

Progress = Callable[[int, int], None]
"""Called with (done, total) steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SobolIndices:
    """The Sobol indices of all dimensions for one objective."""

    dimensions: tuple[Importance, ...]
    """The largest total effect first; empty if they cannot be estimated."""
    reason: str = ""
    """Why they cannot be estimated; else empty."""
    explained: float | None = None
    """Share of the complete trials' variance that the surrogate explains; None if there is none, as for latency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPosition:
    """A measured trial with its cost and error, as in the sampler."""

    record: TrialRecord
    """The trial."""
    cost: float
    """log2 of its predicted milliseconds."""
    error: float
    """Final error; the predicted median for a trial that is not complete."""
    on_front: bool
    """Whether it is complete and no complete trial dominates it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchReview:
    """The analysis of a search, as the report shows it."""

    objective: Objective
    """The study's objective."""
    records: tuple[TrialRecord, ...]
    """All trials; of a continued one only the last."""
    history: SearchHistory | None
    """None if nothing was measured."""
    ideal: Corner | None
    """(lowest cost found in the space, lowest error of a complete trial); None if nothing was measured."""
    rungs: tuple[RungCount, ...]
    """Counts of trials at each rung."""
    unmeasured: dict[str, int]
    """Number of trials that reached no rung, by state or refusal."""
    pruned: tuple[Pruned, ...]
    """Pruned trials with the trials that dominated them."""
    fidelity: SobolIndices
    """Sobol indices of the logarithm of the final error."""
    latency: SobolIndices
    """Sobol indices of the logarithm of the predicted latency."""
    positions: tuple[TrialPosition, ...]
    """All measured trials, a continued one once."""
    gaps: tuple[GapContents, ...]
    """Gaps of the front of the complete trials, by rising latency."""
    n_candidates: int
    """Number of untried points that were evaluated by the surrogate."""
    teacher_ms: float | None
    """The teacher's predicted latency; None if it is unknown."""
    students: dict[int, str]
    """Description of the best candidate's student, by index in `gaps`."""
    logarithmic: frozenset[str]
    """Names of the dimensions that are searched by their logarithm."""
    errors: Mapping[str, str]
    """The end of what was logged of trials that failed or lost their worker, by the trial's name."""

    def fidelity_at(self, error: float) -> str:
        """The fidelity of an error, formatted."""
        return self.objective.format(self.objective.at_error(error))

    @property
    def complete(self) -> int:
        """Number of complete trials."""
        return sum(record.state is TrialState.COMPLETE for record in self.records)


def review_search(search: RecordedSearch, *, progress: Progress | None = None) -> SearchReview:
    """The review of a search. Takes seconds, mostly for fitting the surrogate; `progress` is told (done, total) of it.

    BLAS is limited to one thread: the products are small, and threads that wait for each other take most of the time.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        return _review(search, progress or (lambda done, total: None))


def _review(search: RecordedSearch, progress: Progress) -> SearchReview:
    records = search.records
    nothing = SobolIndices(dimensions=(), reason="No trial has reached a rung yet.")
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
        positions=(),
        gaps=(),
        n_candidates=0,
        teacher_ms=search.teacher_latency_ms,
        students={},
        logarithmic=frozenset(
            name for name, domain in search.space.domains.items() if isinstance(domain, Integer | Real) and domain.log
        ),
        errors=search.errors,
    )
    posterior = search.posterior()
    return review if posterior is None else _with_posterior(review, search, posterior, progress)


def _with_posterior(
    review: SearchReview, search: RecordedSearch, posterior: Posterior, progress: Progress
) -> SearchReview:
    """The review with everything that needs the surrogate's posterior."""
    reference = (posterior.front.cost_limit, posterior.front.error_limit)
    candidates = posterior.candidates(np.random.default_rng(0), n_random=N_RANDOM, n_near=N_NEAR, n_rounds=N_ROUNDS)
    fastest_cost = min([*candidates.costs.tolist(), *(trial.cost for trial in posterior.trials)])
    positions = _positions(posterior, {record.number: record for record in search.records})
    complete = [position for position in positions if position.record.state is TrialState.COMPLETE]
    gaps = gaps_of(
        [(position.cost, position.error) for position in complete],
        fastest_cost=fastest_cost,
        slowest_cost=reference[0] if review.teacher_ms is None else math.log2(review.teacher_ms),
        worst_error=reference[1],
    )
    front = [position.record.number for position in complete if position.on_front]
    contents = gap_contents(gaps, posterior, candidates, front=front)
    return replace(
        review,
        history=history_of(search.trials, reference=reference, objective=search.objective),
        ideal=(fastest_cost, min((position.error for position in complete), default=reference[1])),
        fidelity=_fidelity_indices(search, posterior, progress),
        latency=_latency_indices(search, posterior),
        positions=positions,
        gaps=contents,
        n_candidates=len(candidates.costs),
        students=_students(search, contents),
    )


def _positions(posterior: Posterior, records: dict[int, TrialRecord]) -> tuple[TrialPosition, ...]:
    """The positions of the posterior's trials that no other trial continues."""
    once = {record.number for record in trials_once(records.values())}
    found = []
    for trial, mean in zip(posterior.trials, posterior.means, strict=True):
        if trial.number in once:
            found.append((records[trial.number], trial.cost, math.exp(trial.last if trial.complete else float(mean))))
    complete = [i for i, (record, _, _) in enumerate(found) if record.state is TrialState.COMPLETE]
    front = {complete[i] for i in front_of([(found[i][1], found[i][2]) for i in complete])}
    return tuple(
        TrialPosition(record=record, cost=cost, error=error, on_front=i in front)
        for i, (record, cost, error) in enumerate(found)
    )


def _fidelity_indices(search: RecordedSearch, posterior: Posterior, progress: Progress) -> SobolIndices:
    n_complete = len(posterior.complete)
    if n_complete < MIN_COMPLETE:
        trials = "1 trial is" if n_complete == 1 else f"{n_complete} trials are"
        return SobolIndices(dimensions=(), reason=f"Too few trials: {trials} complete, {MIN_COMPLETE} are needed.")
    explained = posterior.r_squared()
    if explained is None or explained < MIN_EXPLAINED:
        share = "nothing" if explained is None or explained <= 0.0 else f"{explained:.0%}"
        return SobolIndices(
            dimensions=(),
            reason=f"Too few trials: the model explains {share} of the variance between complete trials.",
            explained=explained,
        )
    names = _varying_dimensions(posterior)
    n = 32
    while 2 * n * (len(names) + 2) <= MAX_ROWS:
        n *= 2
    design = Design.of(len(names), n=n)
    coordinates, costs, usable = _active_coordinates(search, posterior, _all_coordinates(posterior, names, design.rows))
    values = posterior.draws(
        coordinates, costs, np.random.default_rng(0), n_models=N_MODELS, n_each=N_DRAWS_EACH, progress=progress
    )
    found = importances(design, names, values, usable)
    if found is None:
        return SobolIndices(dimensions=(), reason="Too few points of the space are valid.", explained=explained)
    return SobolIndices(dimensions=found, explained=explained)


def _latency_indices(search: RecordedSearch, posterior: Posterior) -> SobolIndices:
    predictor, teacher = search.predictor, search.teacher
    if predictor is None or teacher is None:
        return SobolIndices(
            dimensions=(), reason="The calibration with which this search predicted latencies is missing."
        )
    predict = lru_cache(maxsize=None)(predictor.predict)

    def log_latency(row: Array) -> float | None:
        spec = _decode(search, teacher, posterior.cube.point(row))
        return None if spec is None else math.log(predict(spec))

    names = _varying_dimensions(posterior)
    design = Design.of(len(names), n=N_LATENCY)
    values, usable = evaluate(_all_coordinates(posterior, names, design.rows), log_latency)
    found = importances(design, names, values, usable)
    if found is None:
        return SobolIndices(
            dimensions=(), reason="Too few points of the space are valid, or all have the same latency."
        )
    return SobolIndices(dimensions=found)


def _varying_dimensions(posterior: Posterior) -> list[str]:
    """Names of the dimensions that have more than one value."""
    ends = [np.full(len(posterior.cube.names), share) for share in (0.0, 0.5, 1.0 - 1e-9)]
    points: list[dict[str, Any]] = [posterior.cube.point(row) for row in ends]
    return [name for name in posterior.cube.names if len({repr(point[name]) for point in points}) > 1]


def _all_coordinates(posterior: Posterior, names: Sequence[str], rows: Array) -> Array:
    """Coordinates of all dimensions [rows, dimensions] from those of `names`; the others, with one value, are 0.5."""
    coordinates = np.full((len(rows), len(posterior.cube.names)), 0.5)
    coordinates[:, [posterior.cube.names.index(name) for name in names]] = rows
    return coordinates


def _active_coordinates(search: RecordedSearch, posterior: Posterior, rows: Array) -> tuple[Array, Array, Booleans]:
    """For each row: coordinates of its active point, cost (NaN if unknown), and whether the point is valid."""
    assert search.teacher is not None
    points = [active_point(posterior.cube.point(row), search.space) for row in rows]
    specs = [_decode(search, search.teacher, point) for point in points]
    costs = np.full(len(specs), math.nan)
    if search.predictor is not None:
        predict = lru_cache(maxsize=None)(search.predictor.predict)
        costs[:] = [math.nan if spec is None else math.log2(predict(spec)) for spec in specs]
    usable = np.array([spec is not None for spec in specs])
    return np.array([posterior.cube.coordinates(point) for point in points]), costs, usable


def _decode(search: RecordedSearch, teacher: StudentSpec, point: dict[str, Any]) -> StudentSpec | None:
    try:
        return search.space.decode(point, teacher)[0]
    except ValueError:
        return None


def _students(search: RecordedSearch, gaps: Sequence[GapContents]) -> dict[int, str]:
    assert search.teacher is not None
    return {
        i: describe(_decode(search, search.teacher, dict(each.best.point)))
        for i, each in enumerate(gaps)
        if each.best is not None
    }
