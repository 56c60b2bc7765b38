# SPDX-License-Identifier: Apache-2.0
"""The outcome of a training that an exception ended."""

from __future__ import annotations

import torch

from search.storage.disk_space import NO_DISK_SPACE, is_disk_full
from search.workers.memory_limit import is_out_of_memory
from search.workers.retries import OUT_OF_MEMORY
from trainers.distil.loop import NotFiniteError


def failure_of(error: BaseException, *, memory_gib: float | None = None) -> str:
    """The outcome of a trial that an exception ended: not finite, out of memory, no disk space, or its type.

    `memory_gib` is what the trial was allowed to take, None for no limit.
    """
    message = " ".join(str(error).split())
    if is_disk_full(error):
        return f"{NO_DISK_SPACE}: {message}"
    if isinstance(error, NotFiniteError):
        return f"not finite: {message}"
    if isinstance(error, torch.OutOfMemoryError) or is_out_of_memory(error):
        if memory_gib is not None:
            return f"{OUT_OF_MEMORY}: it takes more than {memory_gib:g} GiB (search.trial_memory_gib)"
        return f"{OUT_OF_MEMORY}: {message or type(error).__name__}"
    return f"{type(error).__name__}: {message}"
