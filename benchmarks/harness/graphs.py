# SPDX-License-Identifier: Apache-2.0
"""A student's ONNX files for the runtimes that read them: as exported, and in eight bits in two ways.

Nothing is padded in these benchmarks, so the graphs take token ids only, and no score is masked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaces.student import StudentSpec
from trainers.measure.onnx_graph import onnx_model

N_CALIBRATION = 4  # sentences of random tokens, as those that are embedded
CALIBRATION_TOKENS = 64
PRODUCTS = ["MatMul"]
WEIGHTS_ONLY = {"MatMulConstBOnly": True}  # attention's own products stay in floating point, as in the engine


class Graphs:
    """The files of one student in a folder; each is written when it is first asked for."""

    def __init__(self, spec: StudentSpec, weights: Mapping[str, NDArray[np.float32]], folder: Path) -> None:
        self.spec = spec
        self._weights = weights
        self._folder = folder

    @cached_property
    def exact(self) -> Path:
        """float32."""
        import onnx

        path = self._folder / "exact.onnx"
        onnx.save(without_mask(onnx_model(self.spec, self._weights)), path)
        return path

    @cached_property
    def dynamic_int8(self) -> Path:
        """int8 weights per output; activations are quantised while running. ONNX Runtime's fastest."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        self._require_products()
        path = self._folder / "dynamic.onnx"
        with _silence():
            quantize_dynamic(
                self.exact, path, weight_type=QuantType.QInt8, per_channel=True, extra_options=WEIGHTS_ONLY
            )
        return path

    @cached_property
    def static_int8(self) -> Path:
        """int8 weights per output, uint8 activations whose range is calibrated. OpenVINO's fastest."""
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        self._require_products()
        path = self._folder / "static.onnx"
        with _silence():
            quantize_static(
                self.exact,
                path,
                _calibration(self.spec),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=PRODUCTS,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options=WEIGHTS_ONLY,
            )
        return path

    def _require_products(self) -> None:
        if self.spec.encoder is None:
            raise ValueError("a student of depth 0 has no products that eight bits could make faster")


def without_mask(model: Any) -> Any:
    """The exported graph for sentences without padding: every token counts, and scores go straight to the softmax."""
    from onnx import TensorProto, helper

    graph = model.graph
    masked = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "Where"}
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node(
            "ConstantOfShape",
            ["shape"],
            ["attention_mask"],
            value=helper.make_tensor("counts", TensorProto.INT64, [1], [1]),
        ),
        *(node for node in graph.node if node.op_type != "Where"),
    ]
    for node in nodes:
        node.input[:] = [masked.get(name, name) for name in node.input]
    used = {name for node in nodes for name in node.input}
    for values, kept in (
        (graph.node, nodes),
        (graph.input, [value for value in graph.input if value.name != "attention_mask"]),
        (graph.initializer, [value for value in graph.initializer if value.name in used]),
    ):
        kept = list(kept)
        del values[:]
        values.extend(kept)
    return model


def _calibration(spec: StudentSpec) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Random sentences, one after the other, then None."""

        def __init__(self) -> None:
            generator = np.random.default_rng(1)
            shape = (N_CALIBRATION, 1, CALIBRATION_TOKENS)
            self._inputs = iter(generator.integers(0, spec.vocabulary_size, shape))

        def get_next(self) -> dict[str, NDArray[np.int64]] | None:
            """The next input."""
            ids = next(self._inputs, None)
            return None if ids is None else {"input_ids": ids}

    return Reader()


@contextmanager
def _silence() -> Iterator[None]:
    """Without advice on preparing a graph for training."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
