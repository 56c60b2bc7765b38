# SPDX-License-Identifier: Apache-2.0
"""A full disk: the store lies on a small file system in memory, which something else fills. Needs root on Linux."""

from __future__ import annotations

import errno
import os
import random
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks.fault_injection.faults import ANY_STEP, Command, Environment
from benchmarks.fault_injection.losses import Losses
from benchmarks.fault_injection.processes import descendants, is_alive, name_of
from search.storage.store import Store

DISK_BYTES = 160 << 20
FULL_S = 90.0  # a command that needs no space for so long has not noticed
LEFT_BEHIND_S = 30.0
_MESSAGE = re.compile(r"^understudy: .*\b(space|free)\b", re.MULTILINE)


class Disk:
    """Full from a random moment until the command has ended."""

    steps = ANY_STEP
    n_trials = 16

    def __init__(self) -> None:
        self._ballast = Path()

    def environment(self, folder: Path) -> AbstractContextManager[Environment]:
        """A store on a disk of its own."""
        return self._with_disk(folder / "disk")

    def inject(self, command: Command, *, generator: random.Random, losses: Losses) -> bool:
        """Fills the disk, keeps it full until the command ends, and frees it again."""
        family = descendants(command.process.pid)
        deadline = time.monotonic() + FULL_S
        try:
            with self._ballast.open("ab", buffering=0) as ballast:
                while command.process.poll() is None and time.monotonic() < deadline:
                    _fill(ballast.fileno())
                    time.sleep(0.1)
        finally:
            self._ballast.unlink()
        if command.process.poll() is not None:
            gone_by = time.monotonic() + LEFT_BEHIND_S
            while any(map(is_alive, family)) and time.monotonic() < gone_by:
                time.sleep(0.2)
            for pid in filter(is_alive, family):
                losses.add("processes_left", name_of(pid))
        return True

    def explains(self, command: Command, losses: Losses) -> bool:
        """It ended with one message that says what is missing."""
        text = command.text()
        if "Traceback" in text or not _MESSAGE.search(text.strip().splitlines()[-1]):
            losses.add("unclear_ends", f"exit status {command.process.returncode}:\n{text[-3000:]}")
        return True

    @contextmanager
    def _with_disk(self, disk: Path) -> Iterator[Environment]:
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
        mounted = subprocess.run(mount, capture_output=True, text=True)
        if mounted.returncode != 0:
            raise SystemExit(f"the fault disk needs a tmpfs, which only root may mount: {mounted.stderr.strip()}")
        self._ballast = disk / "ballast"
        try:
            yield Environment(store=Store(disk / "store"))
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _fill(descriptor: int) -> None:
    """Writes until nothing is free: large pieces first, then the last bytes."""
    for size in (1 << 20, 1 << 12, 1):
        try:
            while os.write(descriptor, b"\0" * size) == size:
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
