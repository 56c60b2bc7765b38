# SPDX-License-Identifier: Apache-2.0
"""Torch, eager and in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

import numpy as np
import torch
from torch import nn

from runtime.folder import TOKEN_TABLES, check_weights
from spaces.student import StudentSpec
from trainers.measure.backends.backend import Array, Backend, Call, TokenIds
from trainers.modules.build import student_from_weights
from trainers.modules.student import Student


@final
class TorchBackend:
    """The network that was trained, on the CPU."""

    is_exact = True
    skips_zero_blocks = False

    def missing(self) -> None:
        """Nothing: students are trained with torch."""

    def identity(self) -> str:
        """Torch's version."""
        return f"torch {torch.__version__}"

    def build(self, spec: StudentSpec, weights: Mapping[str, Array], *, n_threads: int) -> TorchStudent:
        """The network with a copy of all weights but the token tables, which are used where they lie."""
        check_weights(spec, weights, origin="weights")
        one_row = {name: array[:1] if name in TOKEN_TABLES else array for name, array in weights.items()}
        network = student_from_weights(replace(spec, vocabulary_size=1), one_row)
        for name, path in zip(TOKEN_TABLES, (network.embeddings, network.static), strict=True):
            if path is not None:
                path.tokens = nn.Parameter(_tensor(weights[name]), requires_grad=False)
        return TorchStudent(spec, network)


@final
class TorchStudent:
    """A network; torch has the threads that the process gives it."""

    def __init__(self, spec: StudentSpec, network: Student) -> None:
        self.spec = spec
        self._network = network.requires_grad_(False)

    def prepare(self, inputs: Sequence[TokenIds]) -> Call:
        """The inputs as tensors."""
        network, n = self._network, len(inputs)
        tensors = [torch.from_numpy(ids) for ids in inputs]
        return lambda i: network(tensors[i % n]).embeddings


def _tensor(table: Array) -> torch.Tensor:
    """The table itself, or a copy if it may not be written, which torch cannot express."""
    return torch.from_numpy(table if table.flags.writeable else np.array(table))


BACKEND: Backend = TorchBackend()
