# SPDX-License-Identifier: Apache-2.0
"""The runtimes that there are: from the name in a study file to its Backend. How to add one: docs/extending.md."""

from __future__ import annotations

from functools import cache
from typing import assert_never

from spaces.profile import Runtime
from trainers.measure.backends.backend import Backend


@cache
def backend_of(runtime: Runtime) -> Backend:
    """The backend of a runtime; packages that it needs are not imported before it builds a student."""
    match runtime:
        case Runtime.ENGINE:
            from trainers.measure.backends.engine_backend import EngineBackend

            return EngineBackend()
        case Runtime.TORCH:
            from trainers.measure.backends.torch_backend import TorchBackend

            return TorchBackend()
        case Runtime.ONNX:
            from trainers.measure.backends.onnx_backend import OnnxBackend

            return OnnxBackend()
        case Runtime.NUMPY:
            from trainers.measure.backends.numpy_backend import NumpyBackend

            return NumpyBackend()
        case _:
            assert_never(runtime)
