# SPDX-License-Identifier: Apache-2.0
"""Ask-and-tell interface to the Optuna study: proposes trials, prunes them at rungs, records how they end.

The manager owns the study and does not depend on Ray. `ask` begins a trial; `reached` reports a rung and returns
whether the trial goes on; a trial ends in `reached`, `failed`, `lost` or `close`. Every change is stored before
observers are notified, so a search that is killed at any point can be continued.

The study has two objectives, latency and fidelity. Optuna refuses `Trial.report` for several objectives, so
measurements at rungs are in the trial's record, a user attribute, which the sampler and the pruner read.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState as OptunaState

from search.optimiser.surrogate import Surrogate
from search.records.formatting import format_ms
from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import Observer, RungRecord, TrialRecord, TrialState
from search.storage.error_files import write_error
from search.trials.checkpoints import (
    delete_checkpoints,
    delete_partial_checkpoints,
    delete_unused_checkpoints,
)
from search.trials.journal import (
    CONTINUES,
    RECORD,
    document_of,
    open_storage,
    records_of,
    tell,
)
from search.trials.plan import TrialPlan
from search.trials.points import suggest_point
from search.trials.problem import StudentProblem
from search.trials.pruning import make_pruning
from search.trials.resume import claim_identity, end_running_trials, enqueue
from search.trials.sampling import make_sampler
from search.trials.time_model import TrainingTimeModel
from search.workers.heartbeat import rung_limit_s
from search.workers.retries import MOST_TRIES, n_losses

MOST_REFUSALS = 100  # in a row: then a finite space probably holds no new point
REFUSALS_TO_RANDOM = 20  # in a row: a sampler that does not learn from refusals might propose one point forever
MOST_POSTPONED = 10  # in a row: the remaining time is too short for the points that the sampler proposes


@dataclass(slots=True)
class _RunningTrial:
    trial: optuna.Trial
    record: TrialRecord


class TrialManager:
    """Begins and ends the trials of one plan; to be used within `exclusive(plan.folder)`."""

    def __init__(
        self,
        plan: TrialPlan,
        *,
        deadline: float | None = None,
        observers: Iterable[Observer] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens the plan's storage and ends trials that an earlier, perhaps killed, search left running.

        `deadline` is a time of `clock`. Raises ValueError if the folder holds a study of another identity.
        """
        self.plan = plan
        self.deadline = deadline
        self._observers = tuple(observers)
        self._clock = clock
        self._teacher_latency_ms = plan.predict(plan.teacher)
        surrogate = Surrogate(
            StudentProblem(
                space=plan.space,
                teacher=plan.teacher,
                rungs=plan.rungs,
                predict=plan.predict,
                limit_ms=self._teacher_latency_ms,
                objective=plan.objective,
            )
        )
        self._pruning = make_pruning(plan.pruner, surrogate, prune_ratio=plan.prune_ratio)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = self._storage = open_storage(plan.folder)
        self._study = optuna.create_study(
            study_name=plan.name,
            storage=storage,
            directions=["minimize", "maximize"],
            sampler=make_sampler(plan.sampler, surrogate, seed=plan.seed, n_startup_trials=plan.n_startup_trials),
            load_if_exists=True,
        )
        claim_identity(self._study, plan)
        end_running_trials(self._study, plan)
        self._records = {record.number: record for record in records_of(self._study, plan.folder)}
        self._time_model = TrainingTimeModel.of(self._records.values())
        self._running: dict[int, _RunningTrial] = {}
        self._has_no_more = False
        self.end_reason = ""
        """Why `ask` returned None, if neither `n_trials` nor the deadline is the reason; else empty."""
        enqueue(self._study, plan, self.records)
        delete_unused_checkpoints(self.plan.folder, self.records)

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """All trials of the study by number, those of earlier runs included."""
        return tuple(self._records[number] for number in sorted(self._records))

    @property
    def exhausted(self) -> bool:
        """Whether no more trials may begin, because `n_trials` or the deadline is reached."""
        if self.plan.n_trials is not None:
            begun = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED, TrialState.RUNNING)
            if sum(record.state in begun for record in self._records.values()) >= self.plan.n_trials:
                return True
        return self._time_left() <= 0.0

    @property
    def running(self) -> bool:
        """Whether a trial is running; it may still be lost, and then `ask` returns its continuation."""
        return bool(self._running)

    def ask(self) -> TrialRecord | None:
        """Begins the next trial that is worth training; None if there is none, or no time for it.

        Points that can be rejected without training are refused, and told to Optuna as pruned. After it has returned
        None, it returns a trial only to continue one that was lost.
        """
        if self._has_no_more:
            return None
        n_refused = n_postponed = 0
        while not self.exhausted and n_refused < MOST_REFUSALS and n_postponed < MOST_POSTPONED:
            trial, record = self._propose(at_random=n_refused >= REFUSALS_TO_RANDOM)
            if record.state is TrialState.REFUSED:
                self._store(trial, record)
                self._study.tell(trial, state=OptunaState.PRUNED)
                self._notify("trial_ended", record)
                n_refused += 1
            elif not self._fits(record, n_tokens=self.plan.rungs[-1]):
                # Left without a record: an initial point or a continuation is enqueued again by the next run.
                self._study.tell(trial, state=OptunaState.FAIL)
                n_postponed += 1
            else:
                self._begin(trial, record)
                if not self._is_complete(record):
                    return record
                # An earlier search measured it to the last rung and was killed before it told Optuna.
                self._end(record.number, record, TrialState.COMPLETE, Outcome(OutcomeKind.COMPLETE))
        self._has_no_more = True
        if n_refused == MOST_REFUSALS:
            self.end_reason = (
                f"the last {n_refused} proposed students were refused ({self._latest_refusal()}): the space holds "
                "nothing new that is faster than its teacher; widen it to search on"
            )
        elif n_postponed == MOST_POSTPONED:
            self.end_reason = "the rest of the time budget is too short for the students that the sampler proposes"
        return None

    def reached(self, number: int, rung: RungRecord, checkpoint: Path) -> bool:
        """Records what a running trial measured at its next rung, and its checkpoint; returns whether it goes on.

        False also for a trial that has ended in the meantime, such as one that was counted as hung.
        """
        if number not in self._running:
            return False
        running = self._running[number]
        before = running.record
        self._observe_time(before, rung)
        record = replace(before, rungs=(*before.rungs, rung), checkpoint=checkpoint)
        if not math.isfinite(self.plan.objective.of(rung.fidelity)):
            self._end(number, record, TrialState.FAILED, Outcome(OutcomeKind.NOT_FINITE, "the fidelity at a rung"))
            return False
        running.record = record
        self._store(running.trial, record)
        if before.checkpoint is not None and before.checkpoint != checkpoint:
            shutil.rmtree(before.checkpoint, ignore_errors=True)
        self._notify("rung_reached", record)
        if self._is_complete(record):
            self._end(number, record, TrialState.COMPLETE, Outcome(OutcomeKind.COMPLETE))
        elif outcome := self._pruned(record):
            self._end(number, record, TrialState.PRUNED, outcome)
        elif not self._fits(record, n_tokens=self.plan.rungs[len(record.rungs)]):
            late = Outcome(OutcomeKind.TIME_BUDGET, f"ended after {record.n_tokens:,} tokens")
            self._end(number, record, TrialState.INTERRUPTED, late)
        return number in self._running

    def failed(self, number: int, outcome: Outcome, *, details: str = "") -> None:
        """Ends a running trial as failed; `details` (a traceback) is written to a file. No effect on an ended trial."""
        if number not in self._running:
            return
        record = self._running[number].record
        write_error(self.plan.folder, record.name, details)
        self._end(number, record, TrialState.FAILED, outcome)

    def lost(self, number: int, outcome: Outcome, *, details: str = "") -> None:
        """Ends a running trial whose worker died; the next `ask` continues it from its last rung.

        The kind of `outcome` must be in `MOST_TRIES`: after so many deaths at one rung the trial is failed instead.
        """
        if number not in self._running:
            return
        record = self._running[number].record
        write_error(self.plan.folder, record.name, details)
        n = n_losses(record, self._records)
        if n >= MOST_TRIES[outcome.kind]:
            self._end(number, record, TrialState.FAILED, outcome.repeated(f"{n} times at this rung"))
            return
        self._end(number, record, TrialState.INTERRUPTED, outcome)
        enqueue(self._study, self.plan, self.records)
        self._has_no_more = False

    def rung_limit_s(self, number: int) -> float | None:
        """Seconds within which a running trial must reach its next rung; None if it is not running."""
        if number not in self._running:
            return None
        record = self._running[number].record
        assert record.predicted_latency_ms is not None
        n_tokens = self.plan.rungs[len(record.rungs)] - record.n_tokens
        expected_s = self._time_model.estimate(record.predicted_latency_ms, n_tokens=n_tokens)
        return rung_limit_s(self.plan.rung_time_limit_s, expected_s=expected_s)

    def close(self, outcome: Outcome) -> None:
        """Ends every running trial as interrupted; the next search of this study continues it.

        A trial that has reached its last rung is complete instead.
        """
        for number in sorted(self._running):
            record = self._running[number].record
            if self._is_complete(record):
                self._end(number, record, TrialState.COMPLETE, Outcome(OutcomeKind.COMPLETE))
            else:
                self._end(number, record, TrialState.INTERRUPTED, outcome)

    def _propose(self, *, at_random: bool) -> tuple[optuna.Trial, TrialRecord]:
        """A new trial and its record; its point comes from the study's sampler, or from a random sampler."""
        sampler = self._study.sampler
        if at_random:
            seed = np.random.SeedSequence([self.plan.seed, len(self._study.get_trials(deepcopy=False))])
            self._study.sampler = optuna.samplers.RandomSampler(seed=int(seed.generate_state(1)[0]))
        try:
            trial = self._study.ask()
            return trial, self._describe(trial)  # with the sampler still set: Optuna samples on `suggest`
        finally:
            self._study.sampler = sampler

    def _describe(self, trial: optuna.Trial) -> TrialRecord:
        """The record of a new trial; its state is REFUSED if the point can be rejected without training."""
        point = suggest_point(trial, self.plan.space)
        continued = self._records.get(trial.user_attrs.get(CONTINUES, -1))
        record = TrialRecord(
            number=trial.number,
            point=point,
            spec=None,
            recipe=None,
            seed=self.plan.seed if continued is None else continued.seed,
            predicted_latency_ms=None,
        )
        try:
            if continued is not None and continued.spec is not None and continued.recipe is not None:
                spec, recipe = continued.spec, continued.recipe  # as its checkpoint has them, whatever the defaults are
            else:
                spec, recipe = self.plan.space.decode(point, self.plan.teacher)
        except ValueError as error:
            return replace(record, state=TrialState.REFUSED, outcome=Outcome(OutcomeKind.CANNOT_BE_BUILT, str(error)))
        record = replace(record, spec=spec, recipe=recipe, predicted_latency_ms=self.plan.predict(spec))
        if continued is not None:
            saved = continued.checkpoint is not None
            return replace(
                record,
                continues=continued.number,
                rungs=continued.rungs if saved else (),
                checkpoint=continued.checkpoint,
            )
        refusal = self._refusal(record)
        return record if refusal is None else replace(record, state=TrialState.REFUSED, outcome=refusal)

    def _refusal(self, record: TrialRecord) -> Outcome | None:
        """Why a point is not worth training; None if it is."""
        latency = record.predicted_latency_ms
        assert latency is not None
        if latency >= (to_beat := self._teacher_latency_ms):
            details = f"predicted {format_ms(latency)} ms, no faster than the teacher's {format_ms(to_beat)} ms"
            return Outcome(OutcomeKind.HOPELESS, details)
        for other in self._records.values():
            if other.state in (TrialState.REFUSED, TrialState.INTERRUPTED):
                continue
            if (other.spec, other.recipe) == (record.spec, record.recipe):
                return Outcome(OutcomeKind.DUPLICATE, f"the same student and recipe as {other.name}")
        return None

    def _begin(self, trial: optuna.Trial, record: TrialRecord) -> None:
        self._store(trial, record)
        self._running[record.number] = _RunningTrial(trial, record)
        self._notify("trial_started", record)

    def _end(self, number: int, record: TrialRecord, state: TrialState, outcome: Outcome) -> None:
        kept = state in (TrialState.COMPLETE, TrialState.INTERRUPTED)
        checkpoint = record.checkpoint
        record = replace(record, state=state, outcome=outcome, checkpoint=checkpoint if kept else None)
        running = self._running.pop(number)
        self._store(running.trial, record)
        tell(self._study, running.trial, record, self.plan.objective)
        if not kept:
            delete_checkpoints(self.plan.folder, replace(record, checkpoint=checkpoint))
        elif state is TrialState.INTERRUPTED:
            delete_partial_checkpoints(self.plan.folder, record)
        self._notify("trial_ended", record)

    def _latest_refusal(self) -> str:
        refused = [record.outcome_kind for record in self.records if record.state is TrialState.REFUSED]
        kinds = Counter(refused[-MOST_REFUSALS:])
        return ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())

    def _is_complete(self, record: TrialRecord) -> bool:
        return len(record.rungs) == len(self.plan.rungs)

    def _pruned(self, record: TrialRecord) -> Outcome | None:
        """The outcome of a trial that is to be pruned; None if it goes on."""
        trial = self._study.get_trials(deepcopy=False)[record.number]
        decision = self._pruning.judge(self._study, trial)
        if decision is None:
            return None
        step = self.plan.rungs[len(record.rungs) - 1]
        rivals = [self._records[number] for number in decision.rivals[:2]]
        if not rivals:
            return Outcome(OutcomeKind.PRUNED, f"at {step:,} tokens, by {decision.by}")
        names = [f"{rival.name} ({format_ms(rival.predicted_latency_ms or 0.0)} ms)" for rival in rivals]
        details = f"at {step:,} tokens, predicted to end behind {' and '.join(names)}"
        return Outcome(OutcomeKind.DOMINATED, details, tuple(rival.number for rival in rivals))

    def _store(self, trial: optuna.Trial, record: TrialRecord) -> None:
        trial.set_user_attr(RECORD, document_of(record, self.plan.folder))
        self._storage.sync()
        self._records[record.number] = record

    def _notify(self, event: str, record: TrialRecord) -> None:
        for observer in self._observers:
            getattr(observer, event)(record)

    def _observe_time(self, before: TrialRecord, rung: RungRecord) -> None:
        assert before.predicted_latency_ms is not None
        n_tokens = rung.n_tokens - before.n_tokens
        self._time_model.observe(before.predicted_latency_ms, n_tokens=n_tokens, seconds=rung.seconds)

    def _time_left(self) -> float:
        return math.inf if self.deadline is None else self.deadline - self._clock()

    def _fits(self, record: TrialRecord, *, n_tokens: int) -> bool:
        """Whether the trial can be expected to reach `n_tokens` in the time left; True if nothing is known yet."""
        assert record.predicted_latency_ms is not None
        seconds = self._time_model.estimate(record.predicted_latency_ms, n_tokens=n_tokens - record.n_tokens)
        return self._time_left() > 0.0 if seconds is None else seconds <= self._time_left()
