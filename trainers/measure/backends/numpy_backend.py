# SPDX-License-Identifier: Apache-2.0
"""NumPy, for machines with neither the engine nor torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np

from runtime.encoder import Encoder
from spaces.student import StudentSpec
from trainers.measure.backends.backend import Array, Backend, Call, TokenIds


@final
class NumpyBackend:
    """NumPy and the BLAS that it was built with, in float32."""

    is_exact = True
    skips_zero_blocks = False

    def missing(self) -> None:
        """Nothing: NumPy is always installed."""

    def identity(self) -> str:
        """NumPy's version; its packages bring their BLAS."""
        return f"numpy {np.__version__}"

    def build(self, spec: StudentSpec, weights: Mapping[str, Array], *, n_threads: int) -> NumpyStudent:
        """The student over the given arrays; BLAS has the threads that the process gives it."""
        return NumpyStudent(Encoder(spec, weights))


@final
class NumpyStudent:
    """A student that NumPy runs."""

    def __init__(self, encoder: Encoder) -> None:
        self.spec = encoder.spec
        self._encoder = encoder

    def prepare(self, inputs: Sequence[TokenIds]) -> Call:
        """NumPy takes the inputs as they are."""
        forward, n = self._encoder.forward, len(inputs)
        return lambda i: forward(inputs[i % n])


BACKEND: Backend = NumpyBackend()
