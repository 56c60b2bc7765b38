# SPDX-License-Identifier: Apache-2.0
"""What a study loses when its processes are killed: nothing that it measured, or this script says what.

Small real studies (a random BERT of two layers, a few hundred sentences) run as `understudy search` does. At random
moments the driver or one of its trial workers gets `kill -9`; a killed driver's command is given again, until the study
is complete. Then all that was ever reported is looked for: in the journal, in MLflow, and on the front. Linux only:

    python -m benchmarks.survival --victim driver --kills 20 [--seed 0] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # when it is run as a file

from search.front import dominates
from search.registry import load_front, load_trials
from search.store import Store
from search.trial import TrialRecord, TrialState
from search.trial_storage import read_trials
from spaces.study import StudySpec, with_overrides
from tests.search.tiny_study import tiny_study

N_TRIALS = 16
LONGEST_WAIT_S = 3.0  # before a kill, once the step is there that it is meant for
STEPS = ("measuring", "training", "searching", "searching", "searching", "graduating", "registering")
LEFT_BEHIND_S = 30.0  # a killed driver's processes have so long to notice
STUDY_S = 600.0
WORKERS = ("ray::TrialActor", "ray::_Inner")  # as Ray calls the processes of trials, and those that train
RUNG = re.compile(r"^(trial-\d{4}) rung (\d+) of", re.MULTILINE)
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass
class Losses:
    """What went wrong, by kind; all should be 0."""

    rungs_lost: int = 0
    """Reported, and not in the journal afterwards."""
    finished_changed: int = 0
    """Trials whose record changed after they had ended."""
    rungs_repeated: int = 0
    """Measured again although they were in the journal."""
    more_than_a_rung_lost: int = 0
    """Trials that were continued from before their last rung."""
    left_running: int = 0
    """Trials that are RUNNING in a complete study."""
    mlflow_differs: int = 0
    """Trials whose run has another state, or none."""
    front_differs: int = 0
    """Registered students that another dominates, or that no trial made."""
    processes_left: int = 0
    """Of a killed driver, still there long after it."""
    commands_failed: int = 0
    """That ended with an error although they were not killed."""


@dataclass
class Soak:
    """All kills of a run."""

    victim: str
    kills: int
    generator: random.Random
    n_kills: int = 0
    n_studies: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    losses: Losses = field(default_factory=Losses)

    def run(self) -> None:
        """Studies until there were enough kills."""
        while self.n_kills < self.kills:
            with TemporaryDirectory(prefix="understudy-survival-") as folder:
                self._study(Path(folder))
            self.n_studies += 1
            losses = asdict(self.losses)
            print(f"{self.n_kills} kills in {self.n_studies} studies: {losses}", file=sys.stderr, flush=True)

    def _study(self, folder: Path) -> None:
        study = with_overrides(tiny_study(folder), trials=N_TRIALS, time_budget=STUDY_S)
        path, store = folder / "study.yaml", Store(folder / "store")
        path.write_text(json.dumps(study.to_json()))
        known: dict[str, TrialRecord] = {}
        while True:
            log = folder / "search.log"
            killed = self._command(path, store, log)
            records = _records(store, study)
            self._compare(log.read_text(), known, records)
            known = {name: record for name, record in records.items() if record.state is not TrialState.RUNNING}
            if killed != "driver":
                break
        self._check_complete(store, study, records)

    def _command(self, path: Path, store: Store, log: Path) -> str | None:
        """Runs the command until it ends, with kills; what was killed last."""
        command = [sys.executable, "-m", "search", "search", str(path), "--store", str(store.root)]
        last = None
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
            step, moment = self._next_kill()
            while process.poll() is None:
                time.sleep(0.1)
                if self.n_kills >= self.kills:
                    continue
                if moment is None and _step(log.read_text()) == step:
                    moment = time.monotonic() + self.generator.uniform(0.0, LONGEST_WAIT_S)
                if moment is not None and time.monotonic() > moment:
                    last = self._kill(process, log) or last
                    if last == "driver":
                        return last
                    step, moment = self._next_kill()
            if process.returncode != 0:
                self.losses.commands_failed += 1
                print(f"exit status {process.returncode}:\n{log.read_text()[-2000:]}", file=sys.stderr)
            return last

    def _next_kill(self) -> tuple[str, float | None]:
        """The step that the next kill is meant for, and its moment, which is not known yet."""
        return ("searching" if self.victim == "worker" else self.generator.choice(STEPS)), None

    def _kill(self, process: subprocess.Popen[bytes], log: Path) -> str | None:
        family = _descendants(process.pid)
        if self.victim == "worker":
            workers = [pid for pid in family if _name(pid).startswith(WORKERS)]
            if not workers:
                return None
            os.kill(self.generator.choice(workers), signal.SIGKILL)
        else:
            process.kill()
            process.wait()
            deadline = time.monotonic() + LEFT_BEHIND_S
            while any(_is_alive(pid) for pid in family) and time.monotonic() < deadline:
                time.sleep(0.2)
            left = [pid for pid in family if _is_alive(pid)]
            self.losses.processes_left += len(left)
            for pid in left:
                print(f"left behind: {_name(pid)}", file=sys.stderr)
                os.kill(pid, signal.SIGKILL)
        self.n_kills += 1
        self.steps[_step(log.read_text())] += 1
        return self.victim

    def _compare(self, log: str, known: dict[str, TrialRecord], records: dict[str, TrialRecord]) -> None:
        """One command's reports with the journal before and after it."""
        reported = RUNG.findall(log)
        for name, n in reported:
            if name not in records or len(records[name].rungs) < int(n):
                self.losses.rungs_lost += 1
            if name in known and len(known[name].rungs) >= int(n):
                self.losses.rungs_repeated += 1
        for name, record in known.items():
            if record.state in ENDED and (name not in records or records[name].rungs != record.rungs):
                self.losses.finished_changed += 1
        by_number = {record.number: record for record in records.values()}
        for record in records.values():
            if record.continues is not None:
                earlier = by_number[record.continues].rungs
                if record.rungs[: len(earlier)] != earlier:
                    self.losses.more_than_a_rung_lost += 1

    def _check_complete(self, store: Store, study: StudySpec, records: dict[str, TrialRecord]) -> None:
        self.losses.left_running += sum(record.state is TrialState.RUNNING for record in records.values())
        runs = {trial.name: trial.state for trial in load_trials(store, study.name)}
        continued = {record.continues for record in records.values()}
        for name, record in records.items():
            if record.number not in continued and runs.get(name) != record.state.value:  # or the run is its successor's
                self.losses.mlflow_differs += 1
                print(f"{name} is {record.state} in the journal and {runs.get(name)} in MLflow", file=sys.stderr)
        students = load_front(store, study.name).students
        for student in students:
            others = [(other.latency_ms, other.fidelity.cosine) for other in students if other is not student]
            beaten = any(dominates(other, (student.latency_ms, student.fidelity.cosine)) for other in others)
            self.losses.front_differs += beaten or student.name not in records


def _records(store: Store, study: StudySpec) -> dict[str, TrialRecord]:
    return {record.name: record for record in read_trials(store.study_folder(study.name), study.name)}


def _step(log: str) -> str:
    """What the command was doing, from its last step."""
    steps = re.findall(r"^\[ *\d+:\d+\] (\w+)", log, re.MULTILINE)
    return steps[-1] if steps else "starting"


def _descendants(pid: int) -> list[int]:
    """Processes that a process started, and theirs."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        own = children.get(queue.pop(), [])
        found += own
        queue += own
    return found


def _is_alive(pid: int) -> bool:
    try:
        return (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) != "Z"
    except OSError:
        return False


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:80]
    except OSError:
        return ""


def main() -> None:
    """Kill and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--victim", choices=["driver", "worker"], default="driver")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    arguments = parser.parse_args()
    soak = Soak(arguments.victim, arguments.kills, random.Random(arguments.seed))
    soak.run()
    document = {
        "victim": soak.victim,
        "kills": soak.n_kills,
        "studies": soak.n_studies,
        "steps": dict(soak.steps),
        "losses": asdict(soak.losses),
    }
    if arguments.json:
        print(json.dumps(document))
    sys.exit(1 if any(asdict(soak.losses).values()) else 0)


if __name__ == "__main__":
    main()
