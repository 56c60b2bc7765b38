# SPDX-License-Identifier: Apache-2.0
"""The faults that a soak test injects: what the command needs, how the fault is caused, and what may follow from it.

A fault is a value of its own. The soak test (`benchmarks.survival`) knows none of them by name: it makes the fault's
environment, gives the command, injects the fault at random moments, and gives the command again where the fault says
that the command had to end.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.fault_injection.losses import Losses
from benchmarks.fault_injection.processes import descendants, is_alive, name_of
from search.storage.store import Store

ANY_STEP = ("starting", "measuring", "training", *("searching",) * 3, "graduating", "registering")
"""Steps of a command, as it calls them; one is drawn for each injection."""
LEFT_BEHIND_S = 30.0  # processes that work for a killed driver have so long to notice
RAY_LEFT_BEHIND_S = 75.0  # its agents try for 60 s to report their raylet's death to a server that died with it
WORKERS = ("ray::TrialActor", "ray::_Inner", "ray::RayTrainWorker")  # of trials (as Tune wraps them), of graduation


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where one study's commands run."""

    store: Store
    """Where they leave what they measure."""
    options: tuple[str, ...] = ()
    """More of `understudy search`."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command that was given."""

    process: subprocess.Popen[bytes]
    log: Path
    """What it printed."""

    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text()


class Fault(Protocol):
    """A kind of fault and how it is injected; one value is used for all studies of a soak test."""

    steps: tuple[str, ...]
    """Steps of the command at which it is injected."""
    n_trials: int
    """Trials of a study: more if faults are injected several times per command."""

    def environment(self, folder: Path) -> AbstractContextManager[Environment]:
        """All that commands need in a new folder, within the block."""

    def inject(self, command: Command, *, generator: random.Random, losses: Losses) -> bool:
        """Inject the fault and restore what the study needs to continue; whether there was something to kill."""

    def explains(self, command: Command, losses: Losses) -> bool:
        """Whether a command under this fault had to end with its exit status; then it is given again."""


class Driver:
    """The process of the command itself. All that it started must end with it."""

    steps = ANY_STEP
    n_trials = 16

    def __init__(self) -> None:
        self._rays: dict[int, float] = {}

    def environment(self, folder: Path) -> AbstractContextManager[Environment]:
        """A store."""
        return _store_alone(folder)

    def inject(self, command: Command, *, generator: random.Random, losses: Losses) -> bool:
        """Kills it, and waits for its workers; for Ray's own processes only before the next one that finds them."""
        family = {pid: name_of(pid) for pid in descendants(command.process.pid)}
        command.process.kill()
        command.process.wait()
        now = time.monotonic()
        workers = {pid for pid, name in family.items() if name.startswith(WORKERS)}
        _require_gone(workers, deadline=now + LEFT_BEHIND_S, losses=losses)
        _require_gone({pid for pid, deadline in self._rays.items() if deadline < now}, deadline=now, losses=losses)
        self._rays = {pid: end for pid, end in self._rays.items() if end >= now}
        self._rays |= dict.fromkeys(set(family) - workers, now + RAY_LEFT_BEHIND_S)
        return True

    def explains(self, command: Command, losses: Losses) -> bool:
        """It was killed."""
        return command.process.returncode == -signal.SIGKILL


class Worker:
    """A process that trains."""

    def __init__(self, step: str, *, n_trials: int) -> None:
        self.steps = (step,)
        self.n_trials = n_trials

    def environment(self, folder: Path) -> AbstractContextManager[Environment]:
        """A store."""
        return _store_alone(folder)

    def inject(self, command: Command, *, generator: random.Random, losses: Losses) -> bool:
        """One of those that there are."""
        workers = [pid for pid in descendants(command.process.pid) if name_of(pid).startswith(WORKERS)]
        if workers:
            os.kill(generator.choice(workers), signal.SIGKILL)
        return bool(workers)

    def explains(self, command: Command, losses: Losses) -> bool:
        """The command goes on."""
        return False


@contextmanager
def _store_alone(folder: Path) -> Iterator[Environment]:
    yield Environment(store=Store(folder / "store"))


def _require_gone(pids: Set[int], *, deadline: float, losses: Losses) -> None:
    """Counts and ends the processes that are still there at the deadline."""
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in filter(is_alive, pids):
        losses.add("processes_left", name_of(pid))
        os.kill(pid, signal.SIGKILL)
