# SPDX-License-Identifier: Apache-2.0
"""A soak test: injects faults into searches and counts lost results.

Small real studies (a random BERT of two layers, a few hundred sentences) run as `understudy search` does. At random
moments a fault is injected (`fault_injection.faults`); if the command ends because of it, it is given again, until the
study is complete. Then all that was ever reported is looked for (`fault_injection.losses`): in the journal, in MLflow,
and on the front. Linux only:

    python -m benchmarks.survival --fault driver --kills 20 [--seed 0] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # when it is run as a file

from benchmarks.fault_injection.faults import Command, Driver, Environment, Fault, Worker
from benchmarks.fault_injection.full_disk import Disk
from benchmarks.fault_injection.losses import Losses, read_records
from benchmarks.fault_injection.raylet import Raylet
from benchmarks.fault_injection.tracking_server import TrackingServer
from benchmarks.harness.machine import describe_machine
from search.records.trial import TrialRecord, TrialState
from spaces.study import StudySpec, with_overrides
from tests.search.tiny_study import tiny_study

FAULTS: dict[str, Callable[[], Fault]] = {
    "driver": Driver,
    "worker": lambda: Worker("searching", n_trials=64),
    "graduation": lambda: Worker("graduating", n_trials=8),
    "raylet": Raylet,
    "disk": Disk,
    "tracking-server": TrackingServer,
}
LONGEST_WAIT_S = 3.0  # before an injection, once the command has reached the step that was drawn for it
STUDY_S = 600.0
MOST_COMMANDS = 60  # for one study: more, and it does not go on


@dataclass
class SoakTest:
    """A soak test: injects faults until there were enough, and counts what was lost."""

    fault: Fault
    kills: int
    generator: random.Random
    n_kills: int = 0
    n_studies: int = 0
    n_commands: int = 0
    n_continued: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    losses: Losses = field(default_factory=Losses)

    def run(self) -> None:
        """Runs studies until enough faults were injected."""
        while self.n_kills < self.kills:
            with TemporaryDirectory(prefix="understudy-survival-") as folder:
                self._study(Path(folder))
            self.n_studies += 1
            counts = dict(self.losses.counts)
            print(f"{self.n_kills} kills in {self.n_studies} studies: {counts}", file=sys.stderr, flush=True)

    def _study(self, folder: Path) -> None:
        study = with_overrides(tiny_study(folder), trials=self.fault.n_trials, time_budget=STUDY_S)
        path = folder / "study.yaml"
        path.write_text(json.dumps(study.to_json()))
        with self.fault.environment(folder) as environment:
            for _ in range(MOST_COMMANDS):
                if not self._command(path, study, environment, log=folder / "search.log"):
                    break

    def _command(self, path: Path, study: StudySpec, environment: Environment, *, log: Path) -> bool:
        """Gives the command once; whether it must be given again."""
        before = _ended(read_records(environment.store, study))
        options = ("--store", str(environment.store.root), *environment.options)
        line = [sys.executable, "-m", "search", "search", str(path), *options]
        with log.open("w") as file:
            command = Command(subprocess.Popen(line, stdout=file, stderr=file, start_new_session=True), log)
            try:
                graduation = environment.store.study_folder(study.name) / "graduation"
                was_injected = self._inject_until_it_ends(command, graduation)
            finally:  # a Ctrl-C must not leave it behind
                command.process.kill()
        self.n_commands += 1
        records = read_records(environment.store, study)
        self.losses.compare(command.text(), before, records)
        status = command.process.returncode
        if status == 0:
            self.n_continued += sum(record.continues is not None for record in records.values())
            self.losses.check_complete(environment.store, study, records)
            return False
        if was_injected and self.fault.explains(command, self.losses):
            return True
        self.losses.add("commands_failed", f"exit status {status}:\n{command.text()[-3000:]}")
        return False

    def _inject_until_it_ends(self, command: Command, graduation: Path) -> bool:
        """Whether a fault was injected; looks at the folder of the graduates all the while."""
        was_injected = False
        step, moment = self.generator.choice(self.fault.steps), None
        while command.process.poll() is None:
            time.sleep(0.1)
            self.losses.watch_graduates(graduation)
            if self.n_kills >= self.kills:
                continue
            if moment is None and _step(command.text()) == step:
                moment = time.monotonic() + self.generator.uniform(0.0, LONGEST_WAIT_S)
            if moment is not None and time.monotonic() > moment:
                now = _step(command.text())
                if self.fault.inject(command, generator=self.generator, losses=self.losses):
                    was_injected = True
                    self.n_kills += 1
                    self.steps[now] += 1
                step, moment = self.generator.choice(self.fault.steps), None
        return was_injected


def _ended(records: dict[str, TrialRecord]) -> dict[str, TrialRecord]:
    return {name: record for name, record in records.items() if record.state is not TrialState.RUNNING}


def _step(log: str) -> str:
    """What the command was doing, from its last step."""
    steps = re.findall(r"^\[ *\d+:\d+\] (\w+)", log, re.MULTILINE)
    return steps[-1] if steps else "starting"


def main() -> None:
    """Kill and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fault", choices=list(FAULTS), default="driver")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    arguments = parser.parse_args()
    soak = SoakTest(FAULTS[arguments.fault](), arguments.kills, random.Random(arguments.seed))
    soak.run()
    document = {
        "fault": arguments.fault,
        "kills": soak.n_kills,
        "studies": soak.n_studies,
        "commands": soak.n_commands,
        "steps": dict(soak.steps),
        "trials_continued": soak.n_continued,
        "losses": dict(soak.losses.counts),
        "machine": describe_machine(),
    }
    if arguments.json:
        print(json.dumps(document))
    sys.exit(1 if any(soak.losses.counts.values()) else 0)


if __name__ == "__main__":
    main()
