# SPDX-License-Identifier: Apache-2.0
"""Dense products in eight bits by oneDNN, as torch calls it, and the fastest that a core is seen to do.

Activations [tokens, inputs] are uint8 with one scale and zero point, weights [outputs, inputs] int8 with one scale for
each output, results float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness.turns import Call, measure_in_turns
from runtime import _native

Array = NDArray[np.float32]
LARGEST_WEIGHT, N_LEVELS = 127, 255
IN_CACHE = ((512, 1024, 512), (768, 768, 256), (1024, 1024, 256))  # outputs, inputs, tokens: weights and all in 2 MB


def onednn_product(x: Array, weight: Array, *, n_copies: int = 1) -> Callable[[], torch.Tensor]:
    """Multiplies x [tokens, inputs] by weight [outputs, inputs], going through copies of the weight in turn."""
    scale = np.maximum(np.abs(weight).max(axis=1), np.finfo(np.float32).tiny) / LARGEST_WEIGHT
    quantised = torch.from_numpy(np.rint(weight / scale[:, None]).astype(np.int8))
    step = float(x.max() - x.min()) / N_LEVELS
    zero = round(-float(x.min()) / step)
    activations = torch.from_numpy(np.clip(np.rint(x / step) + zero, 0, N_LEVELS).astype(np.uint8))
    copies = [torch.ops.onednn.qlinear_prepack(quantised, list(x.shape)) for _ in range(n_copies)]
    scales, zeros = torch.from_numpy(scale), torch.zeros(len(weight), dtype=torch.int64)
    rest: tuple[Any, ...] = (scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")
    operator = torch.ops.onednn.qlinear_pointwise.default
    n_runs = 0

    def run() -> torch.Tensor:
        nonlocal n_runs
        n_runs += 1
        result: torch.Tensor = operator(activations, step, zero, copies[n_runs % n_copies], *rest)
        return result

    return run


def engine_product(
    x: Array, weight: Array, *, storage: str = "faster", instruction_set: str = "", n_copies: int = 1
) -> _native.Product:
    """The same product by the engine; `run` goes through the copies in turn."""
    product = _native.Product(weight, storage, instruction_set, n_copies)
    product.prepare(x)
    return product


def int8_peak(*, seconds: float) -> float:
    """Operations a second of the fastest dense product on one core, weights in cache: the engine's or oneDNN's."""
    generator = np.random.default_rng(0)
    calls: dict[str, Call] = {}
    operations = {}
    with torch.inference_mode():
        for n_outputs, n_inputs, n_tokens in IN_CACHE:
            x = generator.standard_normal((n_tokens, n_inputs), np.float32)
            weight = generator.standard_normal((n_outputs, n_inputs), np.float32)
            ours, theirs = engine_product(x, weight, storage="dense"), onednn_product(x, weight)
            for name, call in (("engine", _ignoring(ours.run)), ("oneDNN", _ignoring(theirs))):
                key = f"{name} {n_outputs} x {n_inputs} x {n_tokens}"
                calls[key], operations[key] = call, 2.0 * n_outputs * n_inputs * n_tokens
        times = measure_in_turns(calls, seconds=seconds, n_threads=1)
    return max(operations[key] / (1e-3 * latency.median_ms) for key, latency in times.items())


def _ignoring(run: Callable[[], object]) -> Call:
    return lambda i: run()
