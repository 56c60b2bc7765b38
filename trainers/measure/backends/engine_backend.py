# SPDX-License-Identifier: Apache-2.0
"""The native engine, in 8 bits, which also serves registered students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np

from runtime.engine import Engine, engine_identity, is_built
from spaces.student import StudentSpec
from trainers.measure.backends.backend import Array, Backend, Call, Missing, TokenIds


@final
class EngineBackend:
    """The engine that was built for this machine, on the instruction set that it chooses or that is forced."""

    is_exact = False
    skips_zero_blocks = True

    def missing(self) -> Missing | None:
        """The engine itself, where only the sources are."""
        if is_built():
            return None
        return Missing(parts=("the native engine",), remedy="install the package with pip and a C++ compiler")

    def identity(self) -> str:
        """Build and instruction set."""
        return engine_identity()

    def build(self, spec: StudentSpec, weights: Mapping[str, Array], *, n_threads: int) -> EngineStudent:
        """The student with its weights packed into eight bits."""
        return EngineStudent(Engine(spec, weights), n_threads=n_threads)


@final
class EngineStudent:
    """A student in native code; every call is on `n_threads` threads."""

    def __init__(self, engine: Engine, *, n_threads: int) -> None:
        self.spec = engine.spec
        self._engine, self._n_threads = engine, n_threads

    def prepare(self, inputs: Sequence[TokenIds]) -> Call:
        """Token ids end to end, as the engine takes them."""
        embed, n_threads, n = self._engine.embed, self._n_threads, len(inputs)
        flat = [ids.astype(np.int32).reshape(-1) for ids in inputs]
        offsets = [np.arange(len(ids) + 1, dtype=np.int64) * ids.shape[1] for ids in inputs]
        return lambda i: embed(flat[i % n], offsets[i % n], n_threads=n_threads)


BACKEND: Backend = EngineBackend()
