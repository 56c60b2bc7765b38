# SPDX-License-Identifier: Apache-2.0
"""Runs one study: preparation, references, trials, graduation, final measurement, registration.

Every step saves its result in the store. So the same command resumes after a Ctrl-C or a crash, returns at once when
the study is complete, and continues when its limits were raised.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from search.console.live_table import LiveTable
from search.console.progress import ConsoleReporter, Reporter, clock_text
from search.graduation.checkpoint_retention import CheckpointKeeper, with_existing_checkpoints
from search.graduation.graduate import Graduate, failures_of, graduate, unfinished_of
from search.graduation.select import choose_graduates
from search.records.front import Front, MeasuredStudent
from search.records.objective import Objective, objective_of
from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import TrialRecord, TrialState
from search.report.page import report_html
from search.storage.disk_space import disk_full_explained, is_disk_full
from search.storage.lock import COMMAND, exclusive
from search.storage.store import NoStoreError, Store
from search.storage.study_state import StudyState
from search.study.budget import EXTENSIONS_S, SHORT_SEARCH_S, TimePlan
from search.study.clock import StepRecorder, StudyClock
from search.study.interrupts import Interrupts
from search.study.limits import COMPLETE, SEARCHED, RequestedLimits
from search.study.measure import measure_all
from search.study.prepare import Prepared, prepare
from search.study.provenance import origin_of, run_params
from search.study.reference_students import registered_folders, write_reference_students
from search.study.references import measure_references
from search.study.search import plan_of, search_trials
from search.study.time_left import PreparationReporter, plan_of_time, time_left_line
from search.tracking.async_writer import TrialWriter
from search.tracking.client import create_store, require_tracking
from search.tracking.errors import reason_of, tracking_errors
from search.tracking.experiment import claim_experiment
from search.tracking.publish import register_front
from search.tracking.registry import NoFrontError, load_front
from search.tracking.relocation import working_on
from search.tracking.trial_runs import RunParams, TrialLog
from search.trials.identity import require_same_study
from search.trials.journal import read_trials
from search.workers.cluster import connect, disconnect, require_startable
from spaces.errors import UserError
from spaces.study import format_duration
from spaces.study.spec import StudySpec
from trainers.modules.freed_memory import return_freed_memory

_RETRY_INTERVAL_S = 1.0
_REGISTRATION_TIMEOUT_S = 60.0  # time to wait for an MLflow server that fails during registration
_FLUSH_TIMEOUT_S = 10.0  # time to wait for pending MLflow writes before the final measurement
_MLFLOW_VARIABLE = "MLFLOW_TRACKING_URI"


def run_search(
    study: StudySpec, *, store: Store, address: str | None = None, progress: Reporter | None = None
) -> Front:
    """Runs or continues a study and returns its registered front.

    `address` is a Ray cluster's; None: `RAY_ADDRESS`, else this machine. `progress` receives the steps; None: bars or
    lines on stderr. The time budget counts over all commands of the study; a complete study returns at once until
    its budget, its trials or its graduation are raised. Raises ValueError if the study cannot be run or no trial
    reached a rung in its time, KeyboardInterrupt after a Ctrl-C, once Ray is shut down and all measurements are saved.
    """
    folder = store.study_folder(study.name)
    state = StudyState(folder)
    store.require_writable()
    require_tracking(store)
    with disk_full_explained(store.root), working_on(store), exclusive(folder, lock=COMMAND):
        state.claim(study)
        clock = StudyClock(state)
        shown = ConsoleReporter(spent_s=clock.spent_s()) if progress is None else nullcontext(progress)
        with shown as console, Interrupts() as interrupts:
            reporter = StepRecorder(console, state, clock)
            ignored = os.environ.get(_MLFLOW_VARIABLE)
            if ignored and ignored.rstrip("/") != store.tracking_uri:
                reporter.say(f"tracking at {store.tracking_uri}: {_MLFLOW_VARIABLE} is ignored, use --tracking-uri")
            run = _Run(study, store, address, reporter, state, clock, interrupts)
            try:
                return run.registered() or run.run_all_steps()
            finally:
                run.disconnect()
                run.save_clock()


@dataclass(slots=True)
class _Run:
    """One command that runs a study: its arguments and its steps."""

    study: StudySpec
    store: Store
    address: str | None
    reporter: Reporter
    state: StudyState
    clock: StudyClock
    interrupts: Interrupts
    is_connected_by_us: bool = False

    @property
    def plan(self) -> TimePlan:
        """The time plan of the study."""
        return plan_of_time(self.study)

    @property
    def objective(self) -> Objective:
        """The study's objective."""
        return objective_of(self.study.objective)

    def registered(self) -> Front | None:
        """The registered front if the study is complete with its present limits, else None."""
        if self.state.read(COMPLETE) != RequestedLimits.of(self.study):
            return None
        try:
            front = load_front(self.store, self.study.name)
        except (NoStoreError, NoFrontError):  # the registry was deleted: register again from the stored results
            return None
        self.reporter.say(
            f"study {self.study.name} is complete; a larger time budget, more trials or a longer graduation extend it"
        )
        return front

    def run_all_steps(self) -> Front:
        """Runs all steps, each from what is already stored; returns the registered front."""
        time_left_line(self.study, self.state)  # raises before anything is computed
        require_startable(self.address)
        remembered = self.store.has_tracking_file
        create_store(self.store)
        try:
            claim_experiment(self.store, self.study)
        except ValueError:
            if not remembered:
                self.store.delete_tracking()
            raise
        preparing = PreparationReporter(self.reporter, self.study, self.state, self.clock)
        prepared = prepare(self.study, store=self.store, plan=self.plan, reporter=preparing)
        # The search checks this too, but may be complete already.
        require_same_study(plan_of(self.study, prepared, store=self.store))
        references = measure_references(prepared, state=self.state, reporter=preparing)
        self.save_clock()
        log = TrialLog(
            self.store,
            self.study.name,
            params=run_params(self.study, prepared),
            objective=self.objective,
            teacher_latency_ms=prepared.calibration.teacher_latency_ms,
        )
        with TrialWriter(log, address=self.store.tracking_uri, say=self.reporter.say) as writer:
            records = self._search(prepared, writer)
            self.save_clock()
            graduates = self._graduate(prepared, records)
            graduated = [_with_graduation(one, self.objective) for one in graduates]
            for record in graduated:
                writer.trial_ended(record)
            graduates = self._registrable(graduates)
            self.disconnect()  # the final measurement needs an idle machine
            writer.flush(_FLUSH_TIMEOUT_S)
            self.save_clock()
            measured = measure_all(
                prepared,
                references,
                graduates,
                profile=self.study.profile,
                seconds=self.plan.measure_s(len(graduates) + len(references)),
                state=self.state,
                reporter=self.reporter,
            )
            self._write_references(prepared, measured.references)
            front = Front.of(
                self.study.name,
                teacher=prepared.teacher_name,
                profile=self.study.profile,
                objective=self.objective,
                references=measured.references,
                students=measured.students,
            )
            folders = {one.record.name: one.folder for one in graduates}
            folders |= registered_folders(front, self.state.folder)
            latest = {record.name: record for record in (*records, *graduated)}
            front = self._register(
                front, folders, latest.values(), writer=writer, params=run_params(self.study, prepared)
            )
        n_most = self.study.graduation.max_students
        chosen = choose_graduates(records, max_students=n_most, objective=self.objective)
        if not unfinished_of(chosen, self.state.folder / "graduation"):
            self.state.write(COMPLETE, RequestedLimits.of(self.study))
        self.reporter.say(f"{len(front.students)} students on the front of {self.study.name}")
        return front

    def save_clock(self) -> None:
        """Saves the spent time after a step. Raises KeyboardInterrupt if a Ctrl-C was swallowed in the step."""
        self.clock.write()
        self.interrupts.check()

    def _register(
        self,
        front: Front,
        folders: Mapping[str, Path],
        records: Iterable[TrialRecord],
        *,
        writer: TrialWriter,
        params: RunParams,
    ) -> Front:
        """Flushes all trials to MLflow and registers the front; retries while a server fails, as both are idempotent.

        Raises ValueError after `_REGISTRATION_TIMEOUT_S`.
        """
        self.reporter.step("registering the front")
        deadline = time.monotonic() + _REGISTRATION_TIMEOUT_S
        while True:
            try:
                writer.finish(records)
                return register_front(self.store, front, folders=folders, page=report_html, params=params)
            except tracking_errors() as error:
                if not self.store.on_server or time.monotonic() > deadline:
                    raise UserError(
                        f"the front of {self.study.name} cannot be registered at {self.store.tracking_uri}: "
                        f"{reason_of(error)}; all measurements are saved: the same command registers it once the "
                        "server works"
                    ) from error
            time.sleep(_RETRY_INTERVAL_S)

    def _search(self, prepared: Prepared, writer: TrialWriter) -> tuple[TrialRecord, ...]:
        """All trials of the study; searches unless an earlier command completed the search with the same limits."""
        study = self.study
        if self.state.read(SEARCHED) == study.search:
            return read_trials(self.state.folder, study.name)
        return_freed_memory()  # memory that the workers will need
        self._connect(prepared)
        earlier = read_trials(self.state.folder, study.name)
        writer.backfill(map(_with_ended_state, earlier))
        begin, seconds = time.monotonic(), self.plan.search_s(self.clock.spent_s())
        self.reporter.say("searching" if seconds is None else f"searching for {clock_text(seconds)}")
        records = self._run_trials(prepared, writer, earlier, seconds=seconds)
        for extension_s in EXTENSIONS_S:
            if seconds is None or any(record.rungs for record in records) or time.monotonic() < begin + seconds:
                break
            self.reporter.say(
                f"warning: no trial reached a rung in {clock_text(seconds)}; the search goes on for "
                f"{clock_text(extension_s)}, so that there is a student"
            )
            begin, seconds = time.monotonic(), extension_s
            records = self._run_trials(prepared, writer, records, seconds=seconds)
        records = tuple(with_existing_checkpoints(records))
        writer.backfill(records)
        states = Counter(str(record.state) for record in records)
        shown = ", ".join(f"{count} {name}" for name, count in sorted(states.items()))
        self.reporter.say(f"{len(records)} trials: {shown}")
        if not choose_graduates(records, max_students=1, objective=self.objective):
            outcomes = sorted({str(record.outcome) for record in records if record.state is TrialState.FAILED})
            raise UserError(
                f"no trial of {study.name} reached a rung ({shown or 'none started'}"
                f"{'; ' + outcomes[0] if outcomes else ''}); {self._remedy()}"
            )
        self.state.write(SEARCHED, study.search)
        return records

    def _remedy(self) -> str:
        """What to change after a search in which no trial reached a rung."""
        if self.plan.budget_s is None:
            return "raise the trials, or lower the rungs"
        budget = format_duration(self.plan.advisable_s(self.clock.spent_s()))
        return f"continue with --time-budget {budget} or more, raise the trials, or lower the rungs"

    def _run_trials(
        self, prepared: Prepared, writer: TrialWriter, earlier: Sequence[TrialRecord], *, seconds: float | None
    ) -> tuple[TrialRecord, ...]:
        """All trials of the study, after new ones for these seconds (None: no limit); `earlier` are those before."""
        study = self.study
        deadline = None if seconds is None else time.monotonic() + seconds
        keeper = CheckpointKeeper(max_students=study.graduation.max_students, objective=self.objective, records=earlier)
        table = LiveTable(
            n_rungs=len(study.search.rungs),
            objective=self.objective,
            n_trials=study.search.n_trials,
            deadline=deadline,
        )
        with table, writer.reporting_to(table.say):
            return search_trials(
                study,
                prepared,
                store=self.store,
                address=self.address,
                deadline=deadline,
                observers=(writer, table, keeper, self.clock),
                fastest_first=seconds is not None and seconds < SHORT_SEARCH_S,
                say=table.say,
            )

    def _graduate(self, prepared: Prepared, records: Sequence[TrialRecord]) -> tuple[Graduate, ...]:
        study, folder = self.study, self.state.folder / "graduation"
        teacher = prepared.teacher
        seconds = self.plan.graduation_s(self.clock.spent_s())
        if seconds == 0.0:
            self.reporter.say(
                "warning: the time budget is used up; a student that has not graduated is trained for a few steps only"
            )
        graduates = graduate(
            records,
            prepared.data,
            spec=study.graduation,
            objective=self.objective,
            folder=folder,
            tokenizer_json=teacher.tokenizer_json,
            device=prepared.device,
            document=origin_of(self.study, prepared),
            connect=lambda: self._connect(prepared),
            deadline=None if seconds is None else time.monotonic() + seconds,
            memory_gib=study.search.trial_memory_gib,
            rung_time_limit_s=study.search.rung_time_limit_s,
            progress=self.reporter.step("graduating the front's students"),
        )
        failures = failures_of(records, folder)
        self.reporter.say(f"{len(graduates)} students graduated")
        for name, outcome in failures.items():
            self.reporter.say(f"{name} did not graduate: {outcome}")
        if not graduates:
            raise UserError(
                f"no student of {study.name} graduated: {'; '.join(map(str, failures.values()))}; lower the learning "
                "rates, or raise the limits that stopped them"
            )
        return graduates

    def _registrable(self, graduates: Sequence[Graduate]) -> tuple[Graduate, ...]:
        """The graduates without those that training made worse; raises UserError if none is left."""
        worse = [one for one in graduates if one.is_below_untrained(self.objective)]
        for one in worse:
            assert one.record.untrained is not None
            before, after = self.objective.of(one.record.untrained), self.objective.of(one.fidelity)
            self.reporter.say(
                f"{one.record.name} is not registered: it had a fidelity of {before:.4f} before training and ended at "
                f"{after:.4f}: its learning rate is too high"
            )
        kept = tuple(one for one in graduates if one not in worse)
        if not kept:
            raise UserError(
                f"training made every student of {self.study.name} worse than it was before; lower the learning rates "
                "in the study file and search under another --name, or train for longer (--time-budget)"
            )
        return kept

    def _write_references(self, prepared: Prepared, references: Sequence[MeasuredStudent]) -> None:
        """Writes the references as students; a disk that is full costs them, and not the students' registration."""
        folder, document = self.state.folder, origin_of(self.study, prepared)
        try:
            write_reference_students(prepared, references, profile=self.study.profile, folder=folder, document=document)
        except OSError as error:
            if not is_disk_full(error):
                raise
            self.reporter.say(
                f"warning: the references are not kept as students: no space left in {folder}; free some, raise the "
                "time budget and give the same command again if they are wanted"
            )

    def _connect(self, prepared: Prepared) -> None:
        n_cpus, n_object_bytes = _n_cpus(self.study), prepared.n_object_bytes
        if connect(self.address, n_cpus=n_cpus, n_object_bytes=n_object_bytes):
            self.is_connected_by_us = True

    def disconnect(self) -> None:
        """Disconnects from Ray if this command connected; a connection that existed before stays."""
        if self.is_connected_by_us:
            disconnect()
            self.is_connected_by_us = False


def _with_graduation(one: Graduate, objective: Objective) -> TrialRecord:
    """The trial's record with the rungs and the outcome of its graduation."""
    kind = OutcomeKind.BELOW_UNTRAINED if one.is_below_untrained(objective) else OutcomeKind.GRADUATED
    return replace(one.record, rungs=(*one.record.rungs, *one.curve), outcome=Outcome(kind))


def _with_ended_state(record: TrialRecord) -> TrialRecord:
    """The record; if it is still RUNNING from an earlier search, whose driver was killed, as INTERRUPTED."""
    if record.state is not TrialState.RUNNING:
        return record
    return replace(record, state=TrialState.INTERRUPTED, outcome=Outcome(OutcomeKind.DRIVER_ENDED))


def _n_cpus(study: StudySpec) -> int | None:
    """CPUs for a Ray that this command starts; None (all) unless the study sets `n_workers`."""
    n_workers = study.search.n_workers
    return None if n_workers is None else max(n_workers, study.graduation.n_workers)
