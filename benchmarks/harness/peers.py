# SPDX-License-Identifier: Apache-2.0
"""The other runtimes that a student can be served by, each in its fastest setting that we know.

Torch runs our own modules; the others read the exported ONNX file. Every runtime may use all that the processor has,
AMX included. Sparse students run dense; OpenVINO's decompression of sparse weights, which saves reading and no
multiplication, is not switched on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness.graphs import Graphs
from benchmarks.harness.students import Profile, TokenIds
from runtime.engine import Engine
from spaces.student import StudentSpec
from trainers.measure.random_student import random_weights
from trainers.modules.build import student_from_weights
from trainers.modules.student import Student

Runner = Callable[[int], Any]
"""Embeds the i-th input and returns its vectors as the runtime gives them."""


class Peer(StrEnum):
    """A runtime with its numbers: a closed set."""

    TORCH_EAGER_F32 = "torch_eager_f32"
    TORCH_EAGER_BF16 = "torch_eager_bf16"
    TORCH_COMPILE_F32 = "torch_compile_f32"
    ONNXRUNTIME_F32 = "onnxruntime_f32"
    ONNXRUNTIME_INT8 = "onnxruntime_int8"
    OPENVINO_BF16 = "openvino_bf16"
    OPENVINO_INT8 = "openvino_int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One student in all forms that runtimes take."""

    spec: StudentSpec
    """What it is."""
    weights: Mapping[str, NDArray[np.float32]]
    """Random, with the spec's share of zero blocks."""
    network: Student
    """In torch, float32."""
    graphs: Graphs
    """As ONNX files."""


def make_subject(spec: StudentSpec, folder: Path, *, seed: int = 0) -> Subject:
    """A student with random weights; its files go into the folder."""
    weights = random_weights(spec, seed=seed)
    return Subject(
        spec=spec,
        weights=weights,
        network=student_from_weights(spec, weights),
        graphs=Graphs(spec, weights, folder),
    )


def missing_packages(peer: Peer) -> list[str]:
    """What must be installed for a peer and is not."""
    match peer:
        case Peer.TORCH_EAGER_F32 | Peer.TORCH_EAGER_BF16 | Peer.TORCH_COMPILE_F32:
            wanted = ["torch"]
        case Peer.ONNXRUNTIME_F32 | Peer.ONNXRUNTIME_INT8:
            wanted = ["onnx", "onnxruntime"]
        case Peer.OPENVINO_BF16:
            wanted = ["onnx", "openvino"]
        case Peer.OPENVINO_INT8:
            wanted = ["onnx", "onnxruntime", "openvino"]
        case _:
            assert_never(peer)
    return [name for name in wanted if find_spec(name) is None]


def prepare(peer: Peer, subject: Subject, profile: Profile, *, n_threads: int) -> Runner:
    """The student on a peer, for the profile's inputs. Whatever the runtime raises is its reason to be left out."""
    match peer:
        case Peer.TORCH_EAGER_F32:
            return _on_torch(subject.network, profile.inputs)
        case Peer.TORCH_EAGER_BF16:
            network = student_from_weights(subject.spec, subject.weights).to(torch.bfloat16)
            return _on_torch(network, profile.inputs)
        case Peer.TORCH_COMPILE_F32:
            return _on_torch(_compile(subject.network), profile.inputs)
        case Peer.ONNXRUNTIME_F32:
            return _on_onnxruntime(subject.graphs.exact, profile, n_threads=n_threads)
        case Peer.ONNXRUNTIME_INT8:
            return _on_onnxruntime(subject.graphs.dynamic_int8, profile, n_threads=n_threads)
        case Peer.OPENVINO_BF16:
            return _on_openvino(subject.graphs.exact, profile, n_threads=n_threads, precision="bf16")
        case Peer.OPENVINO_INT8:
            return _on_openvino(subject.graphs.static_int8, profile, n_threads=n_threads, precision="f32")
        case _:
            assert_never(peer)


def on_engine(engine: Engine, inputs: Sequence[TokenIds], *, n_threads: int) -> Runner:
    """The engine, with token ids end to end as it takes them."""
    flat = [ids.reshape(-1).astype(np.int32) for ids in inputs]
    offsets = [np.arange(len(ids) + 1, dtype=np.int64) * ids.shape[1] for ids in inputs]
    return lambda i: engine.embed(flat[i], offsets[i], n_threads=n_threads)


def vectors_of(output: Any) -> NDArray[np.float32]:
    """A copy of a runner's output [batch, output_dim]."""
    return np.array(output.float() if isinstance(output, torch.Tensor) else output, dtype=np.float32)


def _on_torch(network: Callable[[torch.Tensor], Any], inputs: Sequence[TokenIds]) -> Runner:
    tensors = [torch.from_numpy(ids) for ids in inputs]
    return lambda i: network(tensors[i]).embeddings


def _compile(network: Student) -> Callable[[torch.Tensor], Any]:
    """For the first shape by itself, for mixed shapes with free sizes. Freezing the weights made 3 x 192 no faster."""
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    inductor.compile_threads = 1  # no processes that stay
    compiled: Callable[[torch.Tensor], Any] = torch.compile(network)
    return compiled


def _on_onnxruntime(path: Path, profile: Profile, *, n_threads: int) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = n_threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # when a call is over, not within
    options.log_severity_level = 3
    if profile.fixed:
        for axis, size in zip(("batch", "tokens"), profile.shapes[0], strict=True):
            options.add_free_dimension_override_by_name(axis, size)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda i: session.run(None, {"input_ids": profile.inputs[i]})[0]


def _on_openvino(path: Path, profile: Profile, *, n_threads: int, precision: str) -> Runner:
    """`precision` is that of all that is not in eight bits; beside eight bits, float32 is faster than bfloat16."""
    openvino = _import_openvino()
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({"input_ids": list(profile.shapes[0]) if profile.fixed else [1, -1]})
    settings = {
        "INFERENCE_NUM_THREADS": n_threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "ENABLE_CPU_PINNING": False,  # the process is pinned
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    tensors = [openvino.Tensor(np.array(ids)) for ids in profile.inputs]

    def run(i: int) -> Any:
        request.set_input_tensor(0, tensors[i])
        request.infer()
        return request.get_output_tensor(0).data

    return run


def _import_openvino() -> Any:
    """OpenVINO, without the message that its import sends to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it takes its own stub instead
    return import_module("openvino")
