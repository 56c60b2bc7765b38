# SPDX-License-Identifier: Apache-2.0
"""A student on ONNX Runtime: for measuring what it would cost there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaces.student import StudentSpec
from trainers.measure.onnx_graph import onnx_model


class OnnxStudent:
    """An inference session over the student's graph, in float32 on the CPU."""

    def __init__(self, spec: StudentSpec, weights: Mapping[str, NDArray[np.float32]], *, n_threads: int) -> None:
        """Needs the packages onnx and onnxruntime, of the extra `export`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
        self.spec = spec
        graph = onnx_model(spec, weights).SerializeToString()
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def forward(self, token_ids: NDArray[np.int64]) -> Any:
        """Token ids [batch, tokens], every token counts -> vectors [batch, output_dim]."""
        inputs = {"input_ids": token_ids, "attention_mask": np.ones_like(token_ids)}
        return self._session.run(None, inputs)[0]
