# SPDX-License-Identifier: Apache-2.0
"""A browser is opened where someone sees it, and not before there is something to see."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from search.cli.browser import can_open

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 60.0


class Terminal(io.StringIO):
    """A stream of a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="the variables are those of Linux")
@pytest.mark.parametrize(
    ("environment", "terminal", "expected"),
    [
        ({"DISPLAY": ":0"}, Terminal(), True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, Terminal(), True),
        ({"DISPLAY": ""}, Terminal(), False),
        ({}, Terminal(), False),
        ({"DISPLAY": ":0"}, io.StringIO(), False),
        ({"DISPLAY": "localhost:10.0", "SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22"}, Terminal(), False),
    ],
)
def test_a_browser_is_opened_before_a_display_only(
    environment: dict[str, str], terminal: io.StringIO, expected: bool
) -> None:
    assert can_open(environment, terminal) == expected


def test_the_page_is_opened_when_its_port_answers(tmp_path: Path) -> None:
    opened, browser = tmp_path / "opened", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.part && mv {opened}.part {opened}\n')
    browser.chmod(0o700)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        page = f"http://127.0.0.1:{port}/#/experiments/1/runs?a=b&c=d"
        code = f"""
import threading
from search.cli.browser import open_when_served
open_when_served({page!r}, host="127.0.0.1", port={port})
print("returned", flush=True)
[thread.join() for thread in threading.enumerate() if thread.daemon]
"""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "BROWSER": f"{browser} %s"}
        with subprocess.Popen(
            [sys.executable, "-c", code], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "returned\n"
            assert not opened.exists()
            server.listen()
            process.wait(SECONDS)
    tick = threading.Event()
    for _ in range(int(SECONDS * 100)):
        if opened.exists():
            break
        tick.wait(0.01)
    assert opened.read_text() == f"{page}\n"
