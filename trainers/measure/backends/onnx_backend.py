# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime, in float32 on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import final

import numpy as np

from runtime.folder import check_weights
from spaces.student import StudentSpec
from trainers.measure.backends.backend import Array, Backend, Call, Missing, TokenIds
from trainers.measure.onnx_graph import onnx_model


@final
class OnnxBackend:
    """The student's graph, as it is exported, in an inference session."""

    is_exact = True
    skips_zero_blocks = False

    def missing(self) -> Missing | None:
        """The packages of the extra `export` that are not installed."""
        parts = tuple(name for name in ("onnx", "onnxruntime") if find_spec(name) is None)
        return Missing(parts=parts, remedy="pip install 'understudy[export]'") if parts else None

    def identity(self) -> str:
        """ONNX Runtime's version."""
        return f"onnxruntime {version('onnxruntime')}"

    def build(self, spec: StudentSpec, weights: Mapping[str, Array], *, n_threads: int) -> OnnxStudent:
        """An inference session with `n_threads` threads."""
        return OnnxStudent(spec, weights, n_threads=n_threads)


@final
class OnnxStudent:
    """An inference session over the student's graph."""

    def __init__(self, spec: StudentSpec, weights: Mapping[str, Array], *, n_threads: int) -> None:
        """Needs the packages onnx and onnxruntime, of the extra `export`."""
        import onnxruntime

        check_weights(spec, weights, origin="weights")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
        self.spec = spec
        graph = onnx_model(spec, weights).SerializeToString()
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def prepare(self, inputs: Sequence[TokenIds]) -> Call:
        """The graph's inputs: ids, and a mask that lets every token count."""
        run, n = self._session.run, len(inputs)
        feeds = [{"input_ids": ids, "attention_mask": np.ones_like(ids)} for ids in inputs]
        return lambda i: run(None, feeds[i % n])[0]


BACKEND: Backend = OnnxBackend()
