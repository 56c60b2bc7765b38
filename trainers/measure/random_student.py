# SPDX-License-Identifier: Apache-2.0
"""Students with random weights, whose latency is that of trained ones: only where zeros are matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from runtime.encoder import Encoder
from runtime.engine import Engine
from spaces.profile import Runtime
from spaces.student import BLOCK_INPUTS, BLOCK_OUTPUTS, StudentSpec, n_zero_blocks
from trainers.measure.backends.onnx_backend import OnnxStudent
from trainers.modules.build import build, weights_of
from trainers.modules.student import Student

Runnable = Student | Encoder | Engine | OnnxStudent
"""What each runtime runs."""


def random_student(
    spec: StudentSpec,
    runtime: Runtime,
    *,
    n_threads: int = 1,
    seed: int = 0,
    table: NDArray[np.float32] | None = None,
) -> Runnable:
    """A random student with the spec's share of zero blocks, ready to be timed.

    Its token tables, of full size, are parts of `table` [at least `table_size(spec)`], which may be shared: to fill
    them costs most. None makes one.
    """
    if table is None:
        table = np.random.default_rng(seed).standard_normal(table_size(spec), np.float32)
    student = build(replace(spec, vocabulary_size=1), seed=seed)
    for path in (student.embeddings, student.static):
        if path is not None:
            columns = path.tokens.shape[1]
            rows = torch.from_numpy(table[: spec.vocabulary_size * columns]).view(spec.vocabulary_size, columns)
            path.tokens = nn.Parameter(rows, requires_grad=False)
    match runtime:
        case Runtime.TORCH:
            return student
        case Runtime.NUMPY:
            return Encoder(spec, weights_of(student))
        case Runtime.ONNX:
            return OnnxStudent(spec, weights_of(student), n_threads=n_threads)
        case Runtime.ENGINE:
            return Engine(spec, zero_blocks(spec, weights_of(student), seed=seed))
        case _:
            assert_never(runtime)


def table_size(spec: StudentSpec) -> int:
    """Numbers in the larger of the token tables."""
    columns = [0]
    if spec.encoder is not None:
        columns.append(spec.encoder.embedding_dim or spec.encoder.width)
    if spec.static is not None:
        columns.append(spec.static.embedding_dim or spec.output_dim)
    return spec.vocabulary_size * max(columns)


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
