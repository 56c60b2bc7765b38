# SPDX-License-Identifier: Apache-2.0
"""Students with random weights. They have the latency of trained ones, given the same zero blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from runtime.folder import TOKEN_TABLES, expected_tensors
from spaces.student import BLOCK_INPUTS, BLOCK_OUTPUTS, StudentSpec, n_zero_blocks
from trainers.measure.backends.backend import Backend, Runnable
from trainers.modules.build import build, weights_of


def random_student(
    backend: Backend,
    spec: StudentSpec,
    *,
    n_threads: int = 1,
    seed: int = 0,
    table: NDArray[np.float32] | None = None,
) -> Runnable:
    """A student with `random_weights` on a runtime, ready to be timed."""
    return backend.build(spec, random_weights(spec, seed=seed, table=table), n_threads=n_threads)


def random_weights(
    spec: StudentSpec, *, seed: int = 0, table: NDArray[np.float32] | None = None
) -> dict[str, NDArray[np.float32]]:
    """Random weights with the spec's share of zero blocks.

    The token tables, of full size, are parts of `table` [at least `table_size(spec)`], which may be shared: to fill
    them costs most. None makes one.
    """
    if table is None:
        table = np.random.default_rng(seed).standard_normal(table_size(spec), np.float32)
    weights = weights_of(build(replace(spec, vocabulary_size=1), seed=seed))
    for name, shape in _table_shapes(spec).items():
        weights[name] = table[: math.prod(shape)].reshape(shape)
    return zero_blocks(spec, weights, seed=seed)


def table_size(spec: StudentSpec) -> int:
    """Numbers in the larger of the token tables."""
    return max(math.prod(shape) for shape in _table_shapes(spec).values())


def _table_shapes(spec: StudentSpec) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in expected_tensors(spec).items() if name in TOKEN_TABLES}


def zero_blocks(
    spec: StudentSpec, weights: Mapping[str, NDArray[np.float32]], *, seed: int
) -> dict[str, NDArray[np.float32]]:
    """The weights with the spec's share of every prunable matrix's blocks set to zero, chosen at random."""
    sparse = dict(weights)
    if spec.encoder is None or spec.encoder.sparsity == 0.0:
        return sparse
    generator = np.random.default_rng(seed)
    for name, weight in weights.items():
        if not name.startswith("layers.") or not name.endswith(".weight") or ".norm." in name or ".router." in name:
            continue
        *stack, n_outputs, n_inputs = weight.shape
        blocks = np.array(weight).reshape(
            -1, n_outputs // BLOCK_OUTPUTS, BLOCK_OUTPUTS, n_inputs // BLOCK_INPUTS, BLOCK_INPUTS
        )
        for matrix in blocks:
            n_blocks = matrix.shape[0] * matrix.shape[2]
            zero = generator.permutation(n_blocks)[: n_zero_blocks(n_blocks, spec.encoder.sparsity)]
            matrix[zero // matrix.shape[2], :, zero % matrix.shape[2]] = 0.0
        sparse[name] = blocks.reshape(*stack, n_outputs, n_inputs)
    return sparse
