# SPDX-License-Identifier: Apache-2.0
"""Claims about the memory that a process may take, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import threading
import {module} as module
from search.workers.memory_limit import is_out_of_memory, limit_memory

def ones(): return module.ones(1 << 27)
def lists(): return [[0] * 1000 for _ in range(1 << 20)]
def threads():
    for _ in range(64):
        threading.Thread(target=threading.Event().wait, args=(30,), daemon=True).start()

limit_memory(64 << 20)
try:
    {taker}()
except BaseException as error:
    limit_memory(None)
    assert is_out_of_memory(error), repr(error)
    assert len(bytearray(128 << 20)) == 128 << 20  # and without the limit there is memory again
    print("out of memory")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux keeps such limits")
@pytest.mark.parametrize(
    ("taker", "module"), [("ones", "numpy"), ("ones", "torch"), ("lists", "sys"), ("threads", "sys")]
)
def test_whoever_takes_more_than_the_limit_is_out_of_memory(taker: str, module: str) -> None:
    script = SCRIPT.format(taker=taker, module=module)
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert finished.stdout.strip() == "out of memory", finished.stderr
