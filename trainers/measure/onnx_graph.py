# SPDX-License-Identifier: Apache-2.0
"""A student as one ONNX graph, built node by node from its weights: no tracing, no torch.

Inputs `input_ids` and `attention_mask`, int64 [batch, tokens], both axes free; output `sentence_embedding`,
float32 [batch, dimension], pooled, projected and normalised. Matrices are stored as [inputs, outputs]. Every
student fits, Switch layers too: each expert runs on the tokens that chose it. Operator set 20 (ONNX Runtime 1.17).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from runtime.folder import StudentFolder
from runtime.layers import MASKED, SMALLEST_NORM
from spaces.errors import UserError
from spaces.student import Activation, Dense, EncoderSpec, Pooling, Projection, StudentSpec, Switch

OPERATOR_SET = 20
IR_VERSION = 9  # the oldest that operator set 20 may use: older runtimes refuse newer ones
LARGEST_FILE = 1_900_000_000  # bytes; a protocol buffer may not exceed 2 GiB, so larger weights lie beside it


def write_onnx(student: StudentFolder, path: Path) -> None:
    """Write the student's graph. Raises ValueError if the package onnx is missing."""
    try:
        import onnx
    except ModuleNotFoundError:
        raise UserError("writing ONNX needs the package onnx: pip install 'understudy[export]'") from None
    model = onnx_model(student.spec, student.weights)
    if model.ByteSize() < LARGEST_FILE:
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}_data")  # as transformers.js names it
        onnx.checker.check_model(str(path))


def onnx_model(spec: StudentSpec, weights: Mapping[str, NDArray[np.float32]]) -> Any:
    """The `onnx.ModelProto` of a student."""
    from onnx import TensorProto, helper

    graph = _Graph(weights)
    mask = graph.node("Cast", "attention_mask", to=TensorProto.BOOL)
    vectors = []
    if spec.encoder is not None:
        vectors.append(_encoder(graph, spec.encoder, mask))
    if spec.static is not None:
        static = _masked_mean(graph, graph.node("Gather", graph.weight("static.tokens"), "input_ids"), mask)
        vectors.append(_expand(graph, static, "static.expand"))
    vector = vectors[0] if len(vectors) == 1 else graph.node("Add", *vectors)
    if spec.normalise:
        norm = graph.node("ReduceL2", vector, graph.integers([-1]), keepdims=1)
        vector = graph.node("Div", vector, graph.node("Max", norm, graph.scalar(SMALLEST_NORM)))
    graph.node("Identity", vector, output="sentence_embedding")
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", spec.output_dim])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "student", inputs, [output], initializer=graph.initialisers),
        opset_imports=[helper.make_opsetid("", OPERATOR_SET)],
        producer_name="understudy",
    )
    model.ir_version = IR_VERSION
    return model


class _Graph:
    """Nodes and constants in the order in which they are made; values are known by name."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.initialisers: list[Any] = []
        self._constants: set[str] = set()

    def node(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        from onnx import helper

        name = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """A stored array, kept once under its name."""
        from onnx import numpy_helper

        if name not in self._constants:
            self._constants.add(name)
            self.initialisers.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def weight(self, name: str) -> str:
        """A tensor of the student as it is."""
        return self.constant(name, self.weights[name])

    def integers(self, values: list[int]) -> str:
        """An int64 vector."""
        return self.constant("i" + "_".join(map(str, values)), np.array(values, dtype=np.int64))

    def scalar(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(f"f{value!r}", np.array(value, dtype=np.float32))


def _encoder(graph: _Graph, encoder: EncoderSpec, mask: str) -> str:
    n_tokens = graph.node("Shape", "input_ids", start=1, end=2)
    x = _expand(graph, graph.node("Gather", graph.weight("embeddings.tokens"), "input_ids"), "embeddings.expand")
    positions = graph.node(
        "Slice", graph.weight("embeddings.positions"), graph.integers([0]), n_tokens, graph.integers([0])
    )
    x = _norm(graph, graph.node("Add", x, positions), "embeddings.norm", encoder)
    key_mask = graph.node("Unsqueeze", mask, graph.integers([1, 2]))
    for i in range(encoder.n_layers):
        attended = _attention(graph, x, f"layers.{i}.attention", encoder, key_mask)
        x = _norm(graph, graph.node("Add", x, attended), f"layers.{i}.attention.norm", encoder)
        name = f"layers.{i}.feed_forward"
        match encoder.feed_forward:
            case Dense():
                hidden = _activate(graph, _linear(graph, x, f"{name}.input"), encoder.activation)
                y = _linear(graph, hidden, f"{name}.output")
            case Switch() as switch:
                y = _switch(graph, x, name, switch, encoder)
            case _:
                assert_never(encoder.feed_forward)
        x = _norm(graph, graph.node("Add", x, y), f"{name}.norm", encoder)
    if encoder.pooling is Pooling.MEAN:
        pooled = _masked_mean(graph, x, mask)
    else:
        pooled = graph.node("Gather", x, graph.constant("first", np.array(0, dtype=np.int64)), axis=1)
    match encoder.projection:
        case None:
            return pooled
        case Projection.LINEAR:
            return _linear(graph, pooled, "projection")
        case Projection.TANH:
            return graph.node("Tanh", _linear(graph, pooled, "projection"))
        case _:
            assert_never(encoder.projection)


def _attention(graph: _Graph, x: str, name: str, encoder: EncoderSpec, key_mask: str) -> str:
    """x [batch, tokens, width], key_mask [batch, 1, 1, tokens] -> [batch, tokens, width]."""
    weight, bias = graph.weights[f"{name}.qkv.weight"], graph.weights[f"{name}.qkv.bias"]
    split = graph.integers([0, 0, encoder.n_heads, encoder.head_width])  # 0: as it was
    scales = (1.0 / math.sqrt(encoder.head_width), 1.0, 1.0)  # in the weights, so that no scores are multiplied
    heads = []
    for part, rows, bias_rows, scale in zip("qkv", np.split(weight, 3), np.split(bias, 3), scales, strict=True):
        y = graph.node("MatMul", x, graph.constant(f"{name}.{part}.weight", (rows * np.float32(scale)).T))
        y = graph.node("Add", y, graph.constant(f"{name}.{part}.bias", bias_rows * np.float32(scale)))
        heads.append(_transpose(graph, graph.node("Reshape", y, split), [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]))
    queries, keys, values = heads
    scores = graph.node("Where", key_mask, graph.node("MatMul", queries, keys), graph.scalar(MASKED))
    context = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), values)
    merged = _transpose(graph, context, [0, 2, 1, 3])
    merged = graph.node("Reshape", merged, graph.integers([0, 0, encoder.attention_width]))
    return _linear(graph, merged, f"{name}.output")


def _switch(graph: _Graph, x: str, name: str, switch: Switch, encoder: EncoderSpec) -> str:
    """Each expert on the tokens that chose it, times its probability; x [batch, tokens, width] -> the same."""
    rows = graph.node("Reshape", x, graph.integers([-1, encoder.width]))
    router = graph.constant(f"{name}.router.weight", graph.weights[f"{name}.router.weight"].T)
    probabilities = graph.node("Softmax", graph.node("MatMul", rows, router), axis=-1)
    chosen = graph.node("ArgMax", probabilities, axis=-1, keepdims=0)
    y = graph.node("Mul", rows, graph.scalar(0.0))
    for expert in range(switch.n_experts):
        number = graph.constant(f"expert{expert}", np.array(expert, dtype=np.int64))
        where = _transpose(graph, graph.node("NonZero", graph.node("Equal", chosen, number)), [1, 0])
        z = graph.node("GatherND", rows, where)
        for side in ("experts_input", "experts_output"):
            key = f"{name}.{side}"
            weight = graph.constant(f"{key}.{expert}.weight", graph.weights[f"{key}.weight"][expert].T)
            bias = graph.constant(f"{key}.{expert}.bias", graph.weights[f"{key}.bias"][expert])
            z = graph.node("Add", graph.node("MatMul", z, weight), bias)
            if side == "experts_input":
                z = _activate(graph, z, encoder.activation)
        y = graph.node("ScatterND", y, where, z)
    gate = graph.node("ReduceMax", probabilities, graph.integers([-1]), keepdims=1)
    return graph.node("Reshape", graph.node("Mul", y, gate), graph.node("Shape", x))


def _activate(graph: _Graph, x: str, activation: Activation) -> str:
    match activation:
        case Activation.GELU:
            return graph.node("Gelu", x)
        case Activation.GELU_TANH:
            return graph.node("Gelu", x, approximate="tanh")
        case Activation.RELU:
            return graph.node("Relu", x)
        case _:
            assert_never(activation)


def _linear(graph: _Graph, x: str, name: str) -> str:
    weight = graph.constant(f"{name}.weight", graph.weights[f"{name}.weight"].T)
    return graph.node("Add", graph.node("MatMul", x, weight), graph.weight(f"{name}.bias"))


def _expand(graph: _Graph, x: str, name: str) -> str:
    """A factorised table's second factor, if the student has one."""
    if name not in graph.weights:
        return x
    return graph.node("MatMul", x, graph.constant(name, graph.weights[name].T))


def _norm(graph: _Graph, x: str, name: str, encoder: EncoderSpec) -> str:
    weight, bias = graph.weight(f"{name}.weight"), graph.weight(f"{name}.bias")
    return graph.node("LayerNormalization", x, weight, bias, epsilon=encoder.layer_norm_epsilon)


def _masked_mean(graph: _Graph, x: str, mask: str) -> str:
    """x [batch, tokens, width], mask bool [batch, tokens] -> [batch, width]."""
    from onnx import TensorProto

    weights = graph.node("Unsqueeze", graph.node("Cast", mask, to=TensorProto.FLOAT), graph.integers([-1]))
    total = graph.node("ReduceSum", graph.node("Mul", x, weights), graph.integers([1]), keepdims=0)
    count = graph.node("Max", graph.node("ReduceSum", weights, graph.integers([1]), keepdims=0), graph.scalar(1.0))
    return graph.node("Div", total, count)


def _transpose(graph: _Graph, x: str, order: list[int]) -> str:
    return graph.node("Transpose", x, perm=order)
