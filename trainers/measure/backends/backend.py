# SPDX-License-Identifier: Apache-2.0
"""The interface of a runtime on which latencies are measured.

The name of a runtime in a study file is a `spaces.profile.Runtime`; `trainers.measure.backends.runtimes.backend_of`
gives its `Backend`. It also says which packages are missing, whether fidelity must be measured on it, and what its
latencies depend on. How to add one: docs/extending.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from spaces.student import StudentSpec

Array = NDArray[np.float32]
TokenIds = NDArray[np.int64]

Call = Callable[[int], Any]
"""Embeds the i-th input; gives vectors [batch, output_dim] in whatever form `np.asarray` reads."""

BATCH = 64  # sentences of equal length that are embedded together; bounds memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Why a runtime cannot be used on this machine."""

    parts: tuple[str, ...]
    """What is not installed; at least one."""
    remedy: str
    """How to install it."""


@runtime_checkable
class Runnable(Protocol):
    """One student on one runtime."""

    @property
    def spec(self) -> StudentSpec:
        """Architecture of the student."""

    def prepare(self, inputs: Sequence[TokenIds]) -> Call:
        """A function whose i-th call (i = 0, 1, ...) embeds inputs[i % len(inputs)], [batch, tokens], without padding.

        Calls are what is timed, so whatever can be done once (to convert the inputs, to look up names) is done here.
        """


@runtime_checkable
class Backend(Protocol):
    """One runtime. It has no state: equal arguments give equal students."""

    is_exact: bool
    """Whether it computes in float32 what torch does, so that fidelity measured in training holds. Otherwise the
    students' fidelity is measured on it again, and the teacher run by it becomes a reference beside torch's."""
    skips_zero_blocks: bool
    """Whether its products leave out zero blocks and wait for weights, so that the latency predictor counts both."""

    def missing(self) -> Missing | None:
        """The packages that are not installed; None if students can be built. Imports nothing."""

    def identity(self) -> str:
        """Everything that a latency depends on beside machine and profile: versions, build, instruction set.

        A key of caches: what was measured under another identity is measured again.
        """

    def build(self, spec: StudentSpec, weights: Mapping[str, Array], *, n_threads: int) -> Runnable:
        """The student of these weights, by the names of `runtime.folder.expected_tensors`; none is written to.

        `n_threads` is for runtimes with threads of their own; those of torch and BLAS are limited from outside.
        Raises ValueError for weights that are not the spec's.
        """


def embed_sentences(student: Runnable, token_ids: NDArray[np.int32], offsets: NDArray[np.int64]) -> Array:
    """Vectors [len(offsets) - 1, output_dim] of sentences whose ids stand end to end, sentence i from offsets[i] on.

    Sentences of one length are embedded together, as latencies are measured, so nothing is padded.
    """
    lengths = np.diff(offsets)
    vectors = np.empty((len(lengths), student.spec.output_dim), dtype=np.float32)
    batches = []
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        batches += [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    inputs = [token_ids[offsets[rows, None] + np.arange(lengths[rows[0]])].astype(np.int64) for rows in batches]
    call = student.prepare(inputs)
    for i, rows in enumerate(batches):
        vectors[rows] = np.asarray(call(i))
    return vectors
