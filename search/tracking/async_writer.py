# SPDX-License-Identifier: Apache-2.0
"""A background thread writes trials to MLflow, so that no trial waits for MLflow, whether it is slow or unreachable.

A record is complete, so the queue holds only the newest one of each trial; one that could not be written stays there
and is tried again. What is queued at the end of a search is written before the front is registered, and what a killed
driver had queued is written from Optuna's storage by the next command.
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

BATCH_S = 3.0  # time that a record waits for newer ones, so that there are fewer writes
RETRY_S = 1.0  # between two attempts while MLflow is unreachable
EXIT_S = 3.0  # time that an interrupted command waits for the queue; the next command writes the rest

Say = Callable[[str], None]


class TrialWriter:
    """An observer that writes trials to a log, in a thread that lives as long as the block.

    `say` is called once when MLflow at `address` is found to be unreachable and once when it answers again, in the
    caller's thread and at the next event.
    """

    def __init__(self, log: TrialLog, *, address: str, say: Say) -> None:
        self._log = log
        self._address = address
        self._say = say
        self._thread = threading.Thread(target=self._run, name="trial-writer", daemon=True)
        self._changed = threading.Condition()
        # All of these are read and changed while `_changed` is held.
        self._queue: dict[str, TrialRecord] = {}
        self._refused: dict[str, Exception] = {}
        self._n_outages = 0  # times that MLflow was found to be unreachable
        self._last_failure: Exception | None = None
        self._refusal_reported = False
        self._is_unreachable = False  # reported as unreachable, and not yet as answering again
        self._messages: list[str] = []
        self._crash: BaseException | None = None  # what ended the thread
        self._urgent = False  # a caller waits until the queue is empty
        self._ended = False
        self.processor_s = 0.0
        """CPU time of the thread."""

    def __enter__(self) -> Self:
        """Starts the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the thread after it has written the queue, waiting at most `EXIT_S` seconds."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join(EXIT_S)

    @contextmanager
    def reporting_to(self, say: Say) -> Iterator[None]:
        """Within the block messages are passed to another function."""
        before, self._say = self._say, say
        try:
            yield
        finally:
            self._say = before

    def trial_started(self, record: TrialRecord) -> None:
        """Queues the creation of the trial's run, or its continuation."""
        self._enqueue([record])

    def rung_reached(self, record: TrialRecord) -> None:
        """Queues the metrics of the last rung."""
        self._enqueue([record])

    def trial_ended(self, record: TrialRecord) -> None:
        """Queues the final state, outcome and cost."""
        self._enqueue([record])

    def backfill(self, records: Iterable[TrialRecord]) -> None:
        """Queues trials that have ended, to be written where MLflow lacks them."""
        self._enqueue(records, only_endings=True)

    def flush(self, seconds: float) -> None:
        """Waits until the queue is empty or MLflow is unreachable, at most `seconds`."""
        with self._writing_now():
            self._changed.wait_for(self._idle_or_failed(), seconds)
        self._report()

    def finish(self, records: Iterable[TrialRecord]) -> None:
        """Returns when MLflow has all of these trials, which are looked up again, and all that was queued.

        Raises TrackingError when a write fails; the call may be repeated.
        """
        self._drain()
        with self._changed:
            self._log.forget()  # the queue is empty, so the thread does not use it
            self._refused.clear()
        self._enqueue(records, only_endings=True)
        self._drain()
        with self._changed:
            for name, error in self._refused.items():
                reason = f"{name} is refused: {reason_of(error)}"
                raise TrackingError(reason, reason=reason) from error

    def _drain(self) -> None:
        with self._writing_now():
            self._changed.wait_for(self._idle_or_failed())
            waits, failure, crash = bool(self._queue), self._last_failure, self._crash
        self._report()
        if crash is not None:
            raise crash
        if waits and failure is not None:
            reason = reason_of(failure)
            raise TrackingError(reason, reason=reason) from failure

    @contextmanager
    def _writing_now(self) -> Iterator[None]:
        """Within the block `_changed` is held, and the queue is written without delay."""
        with self._changed:
            self._urgent = True
            self._changed.notify_all()
            try:
                yield
            finally:
                self._urgent = False

    def _idle_or_failed(self) -> Callable[[], bool]:
        """A condition: the queue is empty, or an attempt from now on has failed."""
        n_outages = self._n_outages
        return lambda: not self._queue or self._crash is not None or self._n_outages > n_outages

    def _enqueue(self, records: Iterable[TrialRecord], *, only_endings: bool = False) -> None:
        records = tuple(records)
        self._log.track_continuations(records)
        with self._changed:
            for record in endings(records) if only_endings else records:
                self._queue.pop(record.name, None)  # the newest last
                if record.continues is not None:  # its record includes the other's, and it continues the other's run
                    self._queue.pop(f"trial-{record.continues:04d}", None)
                self._queue[record.name] = record
            self._changed.notify_all()
        self._report()

    def _report(self) -> None:
        with self._changed:
            messages, self._messages = self._messages, []
        for line in messages:
            self._say(line)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._ended)
                self._changed.wait_for(lambda: self._urgent or self._ended, BATCH_S)
                if not self._queue or (self._ended and self._is_unreachable):
                    return
                names = list(self._queue)
            for name in names:
                if not self._write(name):
                    break
            if self._crash is not None:
                return

    def _write(self, name: str) -> bool:
        """Writes the newest record of a trial, if one is queued; returns whether the next may be written at once."""
        with self._changed:
            record = self._queue.get(name)
        if record is None:
            return True
        began = time.thread_time()
        try:
            self._log.write(record)
        except tracking_errors() as error:
            self._failed(record, error)
            return is_refusal(error)
        except BaseException as error:  # raised by `finish`; trials go on until then
            with self._changed:
                self._crash = error
                self._changed.notify_all()
            return False
        finally:
            self.processor_s += time.thread_time() - began
        self._written(record)
        return True

    def _written(self, record: TrialRecord) -> None:
        with self._changed:
            self._refused.pop(record.name, None)
            self._discard(record)
            if self._is_unreachable and not self._queue:
                self._is_unreachable = False
                self._messages.append(f"tracking at {self._address} answers again, and what was missed is written")
            self._changed.notify_all()

    def _failed(self, record: TrialRecord, error: Exception) -> None:
        reason = reason_of(error)
        with self._changed:
            if is_refusal(error):  # others may be accepted, and this one once its record is newer
                self._refused[record.name] = error
                self._discard(record)
                if not self._refusal_reported:
                    self._refusal_reported = True
                    line = f"tracking at {self._address}: {record.name} is refused ({reason}): trials go on"
                    self._messages.append(f"{line}, and it is tried again later")
            else:
                self._n_outages += 1
                self._last_failure = error
                if not self._is_unreachable:
                    self._is_unreachable = True
                    line = f"tracking at {self._address} is unreachable ({reason}): trials go on, and what is missed"
                    self._messages.append(f"{line} is written later")
            self._changed.notify_all()
            if not is_refusal(error) and not self._ended:
                self._changed.wait(RETRY_S)

    def _discard(self, record: TrialRecord) -> None:
        if self._queue.get(record.name) is record:
            del self._queue[record.name]
