# SPDX-License-Identifier: Apache-2.0
"""Claims about the signals that end a command, each in a process of its own that gets them from the kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def outcome_of(code: str, *, ignored: tuple[int, ...] = ()) -> str:
    """What a program prints that starts with these signals ignored; it may use `send`, which sends itself a signal."""

    def ignore() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    program = (
        "import os, signal, time\n"
        "from runtime.signals import *\n"
        "from runtime import signals\n"
        "send = lambda number: os.kill(os.getpid(), number)\n" + code
    )
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, preexec_fn=ignore, timeout=60)
    return finished.stdout.strip() if finished.returncode == 0 else f"status {finished.returncode}"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_each_of_the_signals_interrupts_within_the_block_only(name: str) -> None:
    code = (
        "try:\n    with ending_signals(signal.default_int_handler):\n"
        f"        send(signal.{name}); print('went on')\n"
        "except KeyboardInterrupt: print('interrupted', flush=True)\n"
        f"signal.signal(signal.SIGINT, signal.SIG_DFL)\nprint(signal.getsignal(signal.{name}) is signal.SIG_DFL)"
    )
    assert outcome_of(code) == "interrupted\nTrue"


@pytest.mark.parametrize("ignored", ["SIGINT", "SIGHUP", "SIGTERM"])
def test_a_signal_that_was_ignored_stays_ignored(ignored: str) -> None:
    code = (
        f"with ending_signals(lambda number, frame: print('handled')):\n    send(signal.{ignored})\n"
        f"end_at_once(); send(signal.{ignored}); print('went on')"
    )
    assert outcome_of(code, ignored=(getattr(signal, ignored),)) == "went on"


def test_a_signal_that_comes_again_and_again_is_handled_again() -> None:
    code = (
        "signals.REPEAT_S = 0.2\ncount = []\n"
        "with ending_signals(without_repeats(lambda number, frame: count.append(number))):\n"
        "    end = time.monotonic() + 1.5\n"
        "    while time.monotonic() < end:\n"
        "        send(signal.SIGINT); time.sleep(0.05)\n"
        "print(2 <= len(count) <= 8)"
    )
    assert outcome_of(code) == "True"


def test_handlers_of_another_program_stay_if_that_is_asked_for() -> None:
    code = (
        "signal.signal(signal.SIGTERM, lambda number, frame: print('theirs'))\n"
        "with ending_signals(lambda number, frame: print('ours'), only_defaults=True):\n"
        "    send(signal.SIGTERM); send(signal.SIGHUP)\n"
        "with ending_signals(lambda number, frame: print('ours')):\n    send(signal.SIGTERM)"
    )
    assert outcome_of(code) == "theirs\nours\nours"


def test_signals_that_arrive_together_count_once_and_later_ones_again() -> None:
    code = (
        "signals.REPEAT_S = 0.05\n"
        "with ending_signals(without_repeats(lambda number, frame: print(number))):\n"
        "    send(signal.SIGTERM); send(signal.SIGHUP); time.sleep(0.1); send(signal.SIGHUP)"
    )
    assert outcome_of(code) == f"{int(signal.SIGTERM)}\n{int(signal.SIGHUP)}"


def test_a_signal_ends_at_once_after_that_was_asked_for() -> None:
    code = "with ending_signals(signal.default_int_handler):\n    end_at_once()\n    send(signal.SIGTERM)"
    assert outcome_of(code) == f"status {-signal.SIGTERM}"


def test_a_child_ends_when_its_parent_is_killed() -> None:
    child = f"{sys.executable!r}, '-c', 'import time; time.sleep(600)'"
    code = (
        "import subprocess; from runtime.signals import end_with_parent; "
        f"child = subprocess.Popen([{child}], preexec_fn=end_with_parent); print(child.pid, flush=True); child.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    end = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < end
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
