# SPDX-License-Identifier: Apache-2.0
"""Claims about a Ctrl-C: it interrupts at once, and where something swallows it it is not forgotten."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest

from search.study.interrupts import Interrupts


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def as_in_a_terminal() -> Iterator[None]:
    """The handler that Python has in a terminal, also where the tests run with signals ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def test_it_interrupts_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts():
        press_ctrl_c()
        pytest.fail("the block went on")


def test_what_is_swallowed_is_raised_at_the_next_check() -> None:
    with Interrupts() as interrupts:
        interrupts.check()
        with contextlib.suppress(BaseException):
            press_ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


@pytest.mark.parametrize("leaves_by_a_check", [True, False])
def test_a_signal_that_was_answered_is_not_sent_again(leaves_by_a_check: bool) -> None:
    class Swallows:
        def __del__(self) -> None:
            press_ctrl_c()

    with contextlib.suppress(KeyboardInterrupt), Interrupts() as interrupts:
        Swallows()
        if leaves_by_a_check:
            interrupts.check()
    time.sleep(1.3)  # a second after the signal, in a clean-up or another program


def test_what_a_destructor_swallows_is_raised_again_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    class Swallows:
        def __del__(self) -> None:
            press_ctrl_c()

    with pytest.raises(KeyboardInterrupt), Interrupts():
        Swallows()
        time.sleep(60)
        pytest.fail("the block went on")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_that_end_a_command_interrupt_too(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), Interrupts():
            os.kill(os.getpid(), number)
            pytest.fail("the block went on")
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_the_handler_before_is_there_again() -> None:
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_someone_else_stays() -> None:
    def handle(number: int, frame: object) -> None:
        """Of a program that searches from within."""

    signal.signal(signal.SIGINT, handle)
    with Interrupts() as interrupts:
        assert signal.getsignal(signal.SIGINT) is handle
        press_ctrl_c()
        interrupts.check()
