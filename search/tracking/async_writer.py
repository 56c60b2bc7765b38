# SPDX-License-Identifier: Apache-2.0
"""Trials are written to MLflow by a thread of its own: no trial ever waits for MLflow, whether it is slow or away.

A record is complete, so only the newest of each trial waits to be written, and a record that could not be written is
tried again until it is. What still waits at the end of a search is written before the front is registered, and what
a killed driver took with it is written from Optuna's storage by the next command.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from search.records.trial import TrialRecord
from search.tracking.errors import TrackingError, is_refusal, reason_of, tracking_errors
from search.tracking.trial_runs import TrialLog, endings

GATHER_S = 3.0  # that news may wait for newer ones: fewer writes, and few while the next trial is being chosen
RETRY_S = 1.0  # between two attempts while MLflow is away
LAST_S = 3.0  # that an interrupted command waits for what is still to be written; the next command completes it

Say = Callable[[str], None]


class TrialWriter:
    """An observer that writes trials to a log, in a thread that lives as long as the block.

    `say` is told, once each, that MLflow at `address` is away and that it is back, in the thread of whoever uses the
    writer and at the next event.
    """

    def __init__(self, log: TrialLog, *, address: str, say: Say) -> None:
        self._log = log
        self._address = address
        self._say = say
        self._thread = threading.Thread(target=self._write_all, name="trial-writer", daemon=True)
        self._changed = threading.Condition()
        # All of these are read and changed while `_changed` is held.
        self._waiting: dict[str, TrialRecord] = {}
        self._refused: dict[str, Exception] = {}
        self._n_away = 0  # times that MLflow was found to be away
        self._failure: Exception | None = None  # the last
        self._told_refusal = False
        self._missed = False  # it was said to be away, and not that it is back
        self._news: list[str] = []
        self._broken: BaseException | None = None
        self._hurried = False  # somebody waits until nothing waits
        self._ended = False
        self.processor_s = 0.0
        """Processor time that the thread has taken."""

    def __enter__(self) -> Self:
        """Begins to write."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes what waits if MLflow takes it at once."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join(LAST_S)

    @contextmanager
    def heard_by(self, say: Say) -> Iterator[None]:
        """Within the block another tells what there is to say."""
        before, self._say = self._say, say
        try:
            yield
        finally:
            self._say = before

    def trial_started(self, record: TrialRecord) -> None:
        """Its run is to be made, or gone on with."""
        self._take([record])

    def rung_reached(self, record: TrialRecord) -> None:
        """The last rung is to be added to the curves."""
        self._take([record])

    def trial_ended(self, record: TrialRecord) -> None:
        """The final state, the outcome and the cost are to be written."""
        self._take([record])

    def catch_up(self, records: Iterable[TrialRecord]) -> None:
        """The ends of trials are to be written where nobody has."""
        self._take(records, only_endings=True)

    def settle(self, seconds: float) -> None:
        """Waits until nothing waits or MLflow is found to be away, but no longer than so many seconds."""
        with self._hurry():
            self._changed.wait_for(self._halted(), seconds)
        self._tell()

    def finish(self, records: Iterable[TrialRecord]) -> None:
        """Returns when MLflow has all of these trials, looked up anew, and all that waited.

        Raises TrackingError as soon as it does not take them; then it may be tried again.
        """
        self._drain()
        with self._changed:
            self._log.forget()  # nothing waits, so the thread does not use it
            self._refused.clear()
        self._take(records, only_endings=True)
        self._drain()
        with self._changed:
            for name, error in self._refused.items():
                reason = f"{name} is refused: {reason_of(error)}"
                raise TrackingError(reason, reason=reason) from error

    def _drain(self) -> None:
        with self._hurry():
            self._changed.wait_for(self._halted())
            waits, failure, broken = bool(self._waiting), self._failure, self._broken
        self._tell()
        if broken is not None:
            raise broken
        if waits and failure is not None:
            reason = reason_of(failure)
            raise TrackingError(reason, reason=reason) from failure

    @contextmanager
    def _hurry(self) -> Iterator[None]:
        """Within the block `_changed` is held, and news are written at once."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
            try:
                yield
            finally:
                self._hurried = False

    def _halted(self) -> Callable[[], bool]:
        """A condition: nothing waits, or an attempt from now on has failed."""
        n_away = self._n_away
        return lambda: not self._waiting or self._broken is not None or self._n_away > n_away

    def _take(self, records: Iterable[TrialRecord], *, only_endings: bool = False) -> None:
        records = tuple(records)
        self._log.follow(records)
        with self._changed:
            for record in endings(records) if only_endings else records:
                self._waiting.pop(record.name, None)  # the newest last
                if record.continues is not None:  # its record has all that the other's has, and takes over its run
                    self._waiting.pop(f"trial-{record.continues:04d}", None)
                self._waiting[record.name] = record
            self._changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            news, self._news = self._news, []
        for line in news:
            self._say(line)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                self._changed.wait_for(lambda: self._hurried or self._ended, GATHER_S)
                if not self._waiting or (self._ended and self._missed):
                    return
                names = list(self._waiting)
            for name in names:
                if not self._write(name):
                    break
            if self._broken is not None:
                return

    def _write(self, name: str) -> bool:
        """Writes the newest record of a trial, if it still waits; whether another one may be tried at once."""
        with self._changed:
            record = self._waiting.get(name)
        if record is None:
            return True
        began = time.thread_time()
        try:
            self._log.write(record)
        except tracking_errors() as error:
            self._failed(record, error)
            return is_refusal(error)
        except BaseException as error:  # told to whoever waits for the end: trials go on
            with self._changed:
                self._broken = error
                self._changed.notify_all()
            return False
        finally:
            self.processor_s += time.thread_time() - began
        self._written(record)
        return True

    def _written(self, record: TrialRecord) -> None:
        with self._changed:
            self._refused.pop(record.name, None)
            self._dismiss(record)
            if self._missed and not self._waiting:
                self._missed = False
                self._news.append(f"tracking at {self._address} is back, and has what it missed")
            self._changed.notify_all()

    def _failed(self, record: TrialRecord, error: Exception) -> None:
        reason = reason_of(error)
        with self._changed:
            if is_refusal(error):  # the others may be welcome, and this one when more is known of it
                self._refused[record.name] = error
                self._dismiss(record)
                if not self._told_refusal:
                    self._told_refusal = True
                    line = f"tracking at {self._address}: {record.name} is refused ({reason}): trials go on"
                    self._news.append(f"{line}, and it is tried again later")
            else:
                self._n_away += 1
                self._failure = error
                if not self._missed:
                    self._missed = True
                    line = f"tracking at {self._address} is away ({reason}): trials go on, and what it misses"
                    self._news.append(f"{line} is filled in later")
            self._changed.notify_all()
            if not is_refusal(error) and not self._ended:
                self._changed.wait(RETRY_S)

    def _dismiss(self, record: TrialRecord) -> None:
        if self._waiting.get(record.name) is record:
            del self._waiting[record.name]
