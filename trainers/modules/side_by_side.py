# SPDX-License-Identifier: Apache-2.0
"""Runs whole batches in parallel, one thread each; parallelism within operations makes threads wait for each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def n_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_side_by_side(function: Callable[[Item], Result], items: Iterable[Item], *, n_threads: int) -> list[Result]:
    """The function of every item, in order; torch takes one thread for each, and has all back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if n_threads == 1:
            return list(map(function, items))
        with ThreadPoolExecutor(n_threads) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(before)
