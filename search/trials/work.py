# SPDX-License-Identifier: Apache-2.0
"""The training that a trial runs: start a student, distil it to a rung, measure it, save it, restore it.

`TrialWork` is the whole interface between search and training. Ray sends it to every worker once, so it must be
picklable, with its data in NumPy arrays, which workers then share without copies.
"""

from __future__ import annotations

import math
import time
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from search.records.trial import RungRecord
from search.workers.mapped_array import MappedArray
from spaces.recipe import RecipeSpec
from spaces.student import StudentSpec
from spaces.study.spec import Device
from trainers.distil.loop import Distillation, DistillationData
from trainers.inherit.inherit import Inheritance, inherit
from trainers.modules.freed_memory import return_freed_memory


class TrialWork(Protocol):
    """Trains one student at a time."""

    def drop(self) -> None:
        """Frees the current student, if there is one, so that two students never need memory at the same time."""

    def start(self, spec: StudentSpec, recipe: RecipeSpec, *, seed: int) -> None:
        """Makes the student that the other methods train, measure and save."""

    def advance(self, n_tokens: int) -> RungRecord:
        """Distils until `n_tokens` training tokens have been seen in all, then measures. May raise anything."""

    def save(self, folder: Path) -> None:
        """Writes a checkpoint into a new folder."""

    def restore(self, folder: Path) -> None:
        """Continues bit for bit from a checkpoint that `save` wrote; call `start` first.

        Raises LostCheckpointError if its files are missing or cut off.
        """


class DistillationWork:
    """Inherits a student from the teacher, distils it, and evaluates it on held-out text, on one device."""

    def __init__(self, inheritance: Inheritance, data: DistillationData, *, device: Device) -> None:
        self._inheritance = inheritance
        self._data = data
        self._device = device
        self._distillation: Distillation | None = None
        self._since = 0.0
        self._loss = math.nan

    def __reduce__(self) -> Any:
        """Pickles the data and the device, not the current student."""
        return (partial(DistillationWork, device=self._device), (self._inheritance, self._data))

    def drop(self) -> None:
        """Frees model, optimiser and averages."""
        self._distillation = None
        return_freed_memory()

    def start(self, spec: StudentSpec, recipe: RecipeSpec, *, seed: int) -> None:
        """Inherits the student from its teacher."""
        self._since, self._loss = time.perf_counter(), math.nan
        student = inherit(self._inheritance, spec, seed=seed, device=torch.device(self._device))
        return_freed_memory()
        sparsity = 0.0 if spec.encoder is None else spec.encoder.sparsity
        self._distillation = Distillation(student, recipe, self._data, seed=seed, sparsity=sparsity)

    def advance(self, n_tokens: int) -> RungRecord:
        """Distils and evaluates, before the first batch too; raises NotFiniteError if the loss diverges."""
        is_first = self._running.n_tokens == 0
        untrained = self._running.untrained() if is_first else None
        progress = self._running.advance(n_tokens)
        if math.isfinite(progress.loss):  # NaN if no batch lies between two rungs
            self._loss = progress.loss
        fidelity = self._running.evaluate()
        return_freed_memory()
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        return RungRecord(
            n_tokens=progress.n_tokens,
            fidelity=fidelity,
            loss=self._loss,
            seconds=seconds,
            tokens_per_s=progress.tokens_per_s,
            untrained=untrained,
        )

    def save(self, folder: Path) -> None:
        """Writes weights, averages and optimiser state (`Distillation.save`)."""
        self._running.save(folder)

    def restore(self, folder: Path) -> None:
        """Reads them back (`Distillation.restore`)."""
        self._running.restore(folder)

    @property
    def n_bytes(self) -> int:
        """Bytes of the arrays that Ray sends to workers."""
        return _n_bytes((self._inheritance, self._data))

    @property
    def _running(self) -> Distillation:
        assert self._distillation is not None, "start comes first"
        return self._distillation


def _n_bytes(value: Any) -> int:
    """Bytes of all arrays in nested dataclasses, dicts, lists and tuples; mapped files, sent as a path, count 0."""
    if isinstance(value, MappedArray):
        return 0
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(_n_bytes, value.values()))
    if isinstance(value, tuple | list):
        return sum(map(_n_bytes, value))
    if is_dataclass(value):
        return sum(_n_bytes(getattr(value, part.name)) for part in fields(value))
    return 0
