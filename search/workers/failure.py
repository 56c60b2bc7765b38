# SPDX-License-Identifier: Apache-2.0
"""Outcomes of trainings that ended with an exception."""

from __future__ import annotations

import torch

from search.records.outcomes import Outcome, OutcomeKind
from search.storage.disk_space import is_disk_full
from search.workers.memory_limit import is_out_of_memory
from trainers.distil.loop import NotFiniteError


def failure_of(error: BaseException, *, memory_gib: float | None = None) -> Outcome:
    """The outcome of a training that raised `error`: not finite, out of memory, no space, or the exception itself.

    `memory_gib` is the memory limit of the training, None for no limit; it appears in the message.
    """
    message = " ".join(str(error).split())
    if is_disk_full(error):
        return Outcome(OutcomeKind.NO_SPACE, message)
    if isinstance(error, NotFiniteError):
        return Outcome(OutcomeKind.NOT_FINITE, message)
    if isinstance(error, torch.OutOfMemoryError) or is_out_of_memory(error):
        if memory_gib is not None:
            message = f"it takes more than {memory_gib:g} GiB (search.trial_memory_gib)"
        return Outcome(OutcomeKind.OUT_OF_MEMORY, message or type(error).__name__)
    return Outcome(OutcomeKind.EXCEPTION, message, exception=type(error).__name__)
