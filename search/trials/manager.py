# SPDX-License-Identifier: Apache-2.0
"""The ledger of a search: what is tried next, what each rung means, how every trial ended.

It owns ask and tell of both Optuna studies, and knows nothing of Ray: a trial is begun by `ask`, reports by `reached`
(which answers whether it goes on) and ends there, in `failed`, in `lost` or in `close`. Every change is in the storage
before anyone is told of it, so a search may end at any line of this file and be continued.

Optuna refuses intermediate values on a study of two objectives. So every trial has a twin with the same point in a
study of one, which the pruner reads. The sampler reads the rungs in the records.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from search.optimiser.pruner import FrontPruner
from search.optimiser.sampler import FrontSampler
from search.records.trial import Observer, RungRecord, TrialRecord, TrialState
from search.trials.checkpoints import delete_checkpoints, delete_halves, delete_orphans, write_error
from search.trials.journal import (
    CONTINUES,
    FAILED,
    INITIAL,
    NUMBER,
    RECORD,
    document_of,
    open_storage,
    record_of,
    records_of,
    stands_for_its_point,
    tell,
    tell_twin,
)
from search.trials.plan import TrialPlan
from search.trials.points import initial_point, suggest_point
from search.trials.problem import GivenPoint, outlook_of
from search.trials.time_model import Pace
from search.workers.heartbeat import rung_limit_s
from search.workers.retries import MOST_TRIES, n_losses

LATENCY = "predicted_latency_ms"  # user attribute of a twin
MOST_REFUSALS = 100  # in a row: by then a finite space holds nothing new
MOST_POSTPONED = 10  # in a row: what is left of the time is too short for what the sampler likes


@dataclass(slots=True)
class _Open:
    trial: optuna.Trial
    twin: optuna.Trial
    record: TrialRecord


class TrialLedger:
    """Begins, follows and ends the trials of one plan; use it within `exclusive(plan.folder)`."""

    def __init__(
        self,
        plan: TrialPlan,
        *,
        deadline: float | None = None,
        observers: Iterable[Observer] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens the plan's storage and puts in order what an earlier, perhaps killed, search left.

        `deadline` is a time of `clock`. Raises ValueError if the folder holds a study of another identity.
        """
        self.plan = plan
        self.deadline = deadline
        self._observers = tuple(observers)
        self._clock = clock
        self._teacher_latency_ms = plan.predict(plan.teacher)
        outlook = outlook_of(
            space=plan.space,
            teacher=plan.teacher,
            rungs=plan.rungs,
            predict=plan.predict,
            limit_ms=self._teacher_latency_ms,
            objective=plan.objective,
        )
        self._pruner = FrontPruner(outlook, patience=plan.patience)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = open_storage(plan.folder)
        self._study = optuna.create_study(
            study_name=plan.name,
            storage=storage,
            directions=["minimize", "maximize"],
            sampler=FrontSampler(outlook, seed=plan.seed, n_startup_trials=plan.n_startup_trials),
            load_if_exists=True,
        )
        self._twins = optuna.create_study(
            study_name=f"{plan.name}/rungs",
            storage=storage,
            direction="maximize",
            pruner=self._pruner,
            load_if_exists=True,
        )
        self._require_identity()
        self._end_leftovers()
        self._records = {record.number: record for record in records_of(self._study, plan.folder)}
        self._pace = Pace.of(self._records.values())
        self._open: dict[int, _Open] = {}
        self._drained = False
        self._enqueue()
        delete_orphans(self.plan.folder, self.records)

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """All trials of the study by number, those of earlier runs included."""
        return tuple(self._records[number] for number in sorted(self._records))

    @property
    def exhausted(self) -> bool:
        """Whether no more trials may begin: their number or the time is used up."""
        if self.plan.n_trials is not None:
            begun = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED, TrialState.RUNNING)
            if sum(record.state in begun for record in self._records.values()) >= self.plan.n_trials:
                return True
        return self._time_left() <= 0.0

    @property
    def running(self) -> bool:
        """Whether a trial runs; while one does, it may be lost, and then there is something to ask for again."""
        return bool(self._open)

    def ask(self) -> TrialRecord | None:
        """Begins the next trial that is worth training; None if there is none, or no time for it.

        Points that need no training to be judged are refused on the way, and told as pruned. After a None only a
        trial that is lost brings another.
        """
        if self._drained:
            return None
        n_refused = n_postponed = 0
        while not self.exhausted and n_refused < MOST_REFUSALS and n_postponed < MOST_POSTPONED:
            trial = self._study.ask()
            record = self._describe(trial)
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
                if not self._is_through(record):
                    return record
                self._end(record.number, record, TrialState.COMPLETE, "complete")  # measured, and never told so
        self._drained = True
        return None

    def reached(self, number: int, rung: RungRecord, checkpoint: Path) -> bool:
        """Takes what a running trial measured at its next rung and where it is saved. Returns whether it goes on.

        False for one that has ended meanwhile: it was given up while its report was on the way.
        """
        if number not in self._open:
            return False
        running = self._open[number]
        before = running.record
        self._observe_pace(before, rung)
        record = replace(before, rungs=(*before.rungs, rung), checkpoint=checkpoint)
        value = self.plan.objective.of(rung.fidelity)
        if not math.isfinite(value):
            self._end(number, record, TrialState.FAILED, f"not finite: the fidelity is {value}")
            return False
        running.twin.report(value, step=self.plan.rungs[len(record.rungs) - 1])
        running.record = record
        self._store(running.trial, record)
        if before.checkpoint is not None and before.checkpoint != checkpoint:
            shutil.rmtree(before.checkpoint, ignore_errors=True)
        self._notify("rung_reached", record)
        if self._is_through(record):
            self._end(number, record, TrialState.COMPLETE, "complete")
        elif outcome := self._dominated(running):
            self._end(number, record, TrialState.PRUNED, outcome)
        elif not self._fits(record, n_tokens=self.plan.rungs[len(record.rungs)]):
            self._end(number, record, TrialState.INTERRUPTED, f"time budget: ended after {record.n_tokens:,} tokens")
        return number in self._open

    def failed(self, number: int, outcome: str, *, details: str = "") -> None:
        """Ends a running trial as failed; `details` (a traceback) goes to a file. Nothing if it has ended already."""
        if number not in self._open:
            return
        record = self._open[number].record
        write_error(self.plan.folder, record, details)
        self._end(number, record, TrialState.FAILED, outcome)

    def lost(self, number: int, outcome: str, *, details: str = "") -> None:
        """Ends a running trial whose worker ended under it; the next `ask` goes on from its last rung.

        `outcome` is of a kind that `MOST_TRIES` knows: lost so often at one rung, the trial is failed instead.
        """
        if number not in self._open:
            return
        record = self._open[number].record
        write_error(self.plan.folder, record, details)
        n = n_losses(record, self._records)
        if n >= MOST_TRIES[outcome.split(":", 1)[0]]:
            self._end(number, record, TrialState.FAILED, f"{outcome}; {n} times at this rung")
            return
        self._end(number, record, TrialState.INTERRUPTED, outcome)
        self._enqueue()
        self._drained = False

    def rung_limit_s(self, number: int) -> float | None:
        """Seconds within which a running trial must reach its next rung; None if it does not run any more."""
        if number not in self._open:
            return None
        record = self._open[number].record
        assert record.predicted_latency_ms is not None
        n_tokens = self.plan.rungs[len(record.rungs)] - record.n_tokens
        expected_s = self._pace.estimate(record.predicted_latency_ms, n_tokens=n_tokens)
        return rung_limit_s(self.plan.rung_time_limit_s, expected_s=expected_s)

    def close(self, outcome: str) -> None:
        """Ends every running trial as interrupted; the next search of this study continues it.

        One that was measured to its last rung is complete, whatever kept it from being told so.
        """
        for number in sorted(self._open):
            record = self._open[number].record
            if self._is_through(record):
                self._end(number, record, TrialState.COMPLETE, "complete")
            else:
                self._end(number, record, TrialState.INTERRUPTED, outcome)

    def _describe(self, trial: optuna.Trial) -> TrialRecord:
        """The record of a new trial, refused if it needs no training to be judged."""
        point = suggest_point(trial, self.plan.space)
        record = TrialRecord(
            number=trial.number,
            point=point,
            spec=None,
            recipe=None,
            seed=self.plan.seed,
            predicted_latency_ms=None,
        )
        try:
            spec, recipe = self.plan.space.decode(point, self.plan.teacher)
        except ValueError as error:
            return replace(record, state=TrialState.REFUSED, outcome=f"cannot be built: {error}")
        record = replace(record, spec=spec, recipe=recipe, predicted_latency_ms=self.plan.predict(spec))
        continued = self._records.get(trial.user_attrs.get(CONTINUES, -1))
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

    def _refusal(self, record: TrialRecord) -> str | None:
        """Why a point is not worth training; None if it is."""
        latency = record.predicted_latency_ms
        assert latency is not None
        to_beat = self._teacher_latency_ms
        if latency >= to_beat:
            return f"hopeless: predicted {latency:.3g} ms, no faster than the teacher's {to_beat:.3g} ms"
        for other in self._records.values():
            if other.state in (TrialState.REFUSED, TrialState.INTERRUPTED):
                continue
            if (other.spec, other.recipe) == (record.spec, record.recipe):
                return f"duplicate: the same student and recipe as {other.name}"
        return None

    def _begin(self, trial: optuna.Trial, record: TrialRecord) -> None:
        self._twins.sampler = GivenPoint(record.point)
        twin = self._twins.ask()
        suggest_point(twin, self.plan.space)
        twin.set_user_attr(NUMBER, record.number)
        if record.continues is not None:
            twin.set_user_attr(CONTINUES, record.continues)
        twin.set_user_attr(LATENCY, record.predicted_latency_ms)
        for target, rung in zip(self.plan.rungs, record.rungs, strict=False):
            twin.report(self.plan.objective.of(rung.fidelity), step=target)
        self._store(trial, record)
        self._open[record.number] = _Open(trial, twin, record)
        self._notify("trial_started", record)

    def _end(self, number: int, record: TrialRecord, state: TrialState, outcome: str) -> None:
        kept = state in (TrialState.COMPLETE, TrialState.INTERRUPTED)
        checkpoint = record.checkpoint
        record = replace(record, state=state, outcome=outcome, checkpoint=checkpoint if kept else None)
        running = self._open.pop(number)
        if state is TrialState.FAILED:
            running.twin.set_user_attr(FAILED, True)
        self._store(running.trial, record)
        tell(self._study, running.trial, record, self.plan.objective)
        tell_twin(self._twins, running.twin, record, self.plan.objective)
        if not kept:
            delete_checkpoints(self.plan.folder, replace(record, checkpoint=checkpoint))
        elif state is TrialState.INTERRUPTED:
            delete_halves(self.plan.folder, record)
        self._notify("trial_ended", record)

    def _alive_and_left(self) -> tuple[list[FrozenTrial], list[TrialRecord]]:
        """Optuna's trials that stand for their point, and interrupted ones that none of them continues."""
        alive = [trial for trial in self._study.get_trials(deepcopy=False) if stands_for_its_point(trial)]
        continued = {trial.user_attrs.get(CONTINUES) for trial in alive}
        interrupted = [record for record in self.records if record.state is TrialState.INTERRUPTED]
        return alive, [record for record in interrupted if record.number not in continued]

    def _is_through(self, record: TrialRecord) -> bool:
        return len(record.rungs) == len(self.plan.rungs)

    def _dominated(self, running: _Open) -> str:
        """The outcome of a trial that is to be pruned, with who is expected to end ahead; empty if it goes on."""
        twin = self._twins.get_trials(deepcopy=False)[running.twin.number]
        step = twin.last_step
        assert step is not None
        rivals = [
            f"trial-{rival.user_attrs[NUMBER]:04d} ({rival.user_attrs[LATENCY]:.3g} ms)"
            for rival in self._pruner.dominators(self._twins, twin)[:2]
        ]
        return f"dominated: at {step:,} tokens, expected to end behind {' and '.join(rivals)}" if rivals else ""

    def _store(self, trial: optuna.Trial, record: TrialRecord) -> None:
        trial.set_user_attr(RECORD, document_of(record, self.plan.folder))
        self._records[record.number] = record

    def _notify(self, event: str, record: TrialRecord) -> None:
        for observer in self._observers:
            getattr(observer, event)(record)

    def _observe_pace(self, before: TrialRecord, rung: RungRecord) -> None:
        assert before.predicted_latency_ms is not None
        n_tokens = rung.n_tokens - before.n_tokens
        self._pace.observe(before.predicted_latency_ms, n_tokens=n_tokens, seconds=rung.seconds)

    def _time_left(self) -> float:
        return math.inf if self.deadline is None else self.deadline - self._clock()

    def _fits(self, record: TrialRecord, *, n_tokens: int) -> bool:
        """Whether the trial can be expected to reach `n_tokens` in the time left; True if nothing is known yet."""
        assert record.predicted_latency_ms is not None
        seconds = self._pace.estimate(record.predicted_latency_ms, n_tokens=n_tokens - record.n_tokens)
        return self._time_left() > 0.0 if seconds is None else seconds <= self._time_left()

    def _require_identity(self) -> None:
        wanted = json.loads(json.dumps(dict(self.plan.identity)))
        stored = self._study.user_attrs.get("identity")
        if stored is None:
            self._study.set_user_attr("identity", wanted)
        elif stored != wanted:
            changed = sorted(key for key in {*stored, *wanted} if stored.get(key) != wanted.get(key))
            raise ValueError(
                f"a study is continued with what it began with: {', '.join(changed)} changed since study "
                f"{self.plan.name!r} was first searched; give this one another --name, or delete {self.plan.folder}"
            )

    def _end_leftovers(self) -> None:
        """Trials that a killed search left running: told if all was measured, else failed, to be continued."""
        for trial in self._study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,)):
            record = record_of(trial, self.plan.folder)
            if record is None:
                self._study.tell(trial.number, state=OptunaState.FAIL)
            elif record.state is TrialState.RUNNING:
                state = TrialState.COMPLETE if self._is_through(record) else TrialState.INTERRUPTED
                tell(self._study, trial.number, replace(record, state=state), self.plan.objective)
            else:
                tell(self._study, trial.number, record, self.plan.objective)
        records = {record.number: record for record in records_of(self._study, self.plan.folder)}
        for twin in self._twins.get_trials(deepcopy=False, states=(OptunaState.RUNNING,)):
            tell_twin(self._twins, twin.number, records.get(twin.user_attrs.get(NUMBER, -1)), self.plan.objective)

    def _enqueue(self) -> None:
        """Interrupted trials that nobody continues yet, then initial points that were not tried yet."""
        alive, left = self._alive_and_left()
        if left:
            for _ in self._study.get_trials(deepcopy=False, states=(OptunaState.WAITING,)):
                self._study.tell(self._study.ask(), state=OptunaState.FAIL)  # to wait again, behind what is left
            alive, left = self._alive_and_left()
        for record in left:
            self._study.enqueue_trial(record.point, user_attrs={CONTINUES: record.number})
        tried = {trial.user_attrs.get(INITIAL) for trial in alive}
        for point in self.plan.initial_points:
            text = json.dumps(dict(point), sort_keys=True)
            if text not in tried:
                tried.add(text)
                filled = initial_point(point, self.plan.space, self.plan.teacher)
                self._study.enqueue_trial(filled, user_attrs={INITIAL: text})
