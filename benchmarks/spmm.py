# SPDX-License-Identifier: Apache-2.0
"""How fast the engine multiplies, dense and block-sparse, beside oneDNN's dense product in eight bits.

One core, weights out of cache: every run takes the next of so many copies of the matrix that they exceed 32 MiB.
Activations are quantised beforehand and warm, results are float32, on both sides. The engine's product at every share
of zero blocks (16 outputs x 4 inputs, at random places) and oneDNN's dense one (torch.ops.onednn.qlinear_pointwise)
take turns; a time is the median over the turns. oneDNN is called from Python once a product, the engine once for many,
so what a call of oneDNN costs by itself, taken from a tiny product, is reported too, and ratios without it beside the
plain ones. Every product is compared with NumPy in float32. Run it on an idle machine:

    python -m benchmarks.spmm [--instruction-set avx512_vnni] [--seconds 2] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # when it is run as a file

from benchmarks.harness.integer_products import Array, engine_product, onednn_product
from benchmarks.harness.machine import describe_machine
from benchmarks.harness.turns import Call, cores, measure_in_turns
from runtime import _native
from runtime.engine import instruction_sets
from spaces.student import BLOCK_INPUTS, BLOCK_OUTPUTS, n_kept_weights, n_zero_blocks

SHAPES = ((768, 768), (3072, 768), (768, 3072), (384, 1536))  # outputs, inputs
TOKENS = (16, 32, 64, 128, 256, 512)
SPARSITIES = (0.0, 0.7, 0.8, 0.9)
OUT_OF_CACHE = 32 * 2**20
LARGEST_ERROR = 0.03  # of the result's size; eight bits on normal numbers, clipped nowhere, leave 0.011
RUNS_IN_A_TURN = 16  # so that what a call of the engine from Python costs is shared
TINY = (1, 16, 16)  # tokens, outputs, inputs: nothing but the call


def say(text: str) -> None:
    """Print for people."""
    print(text, file=sys.stderr, flush=True)


def random_weight(n_outputs: int, n_inputs: int, sparsity: float, generator: np.random.Generator) -> Array:
    """Normal numbers with a share of zero blocks at random places."""
    n_rows, n_columns = n_outputs // BLOCK_OUTPUTS, n_inputs // BLOCK_INPUTS
    kept = np.ones(n_rows * n_columns, bool)
    kept[generator.permutation(len(kept))[: n_zero_blocks(len(kept), sparsity)]] = False
    mask = kept.reshape(n_rows, n_columns).repeat(BLOCK_OUTPUTS, axis=0).repeat(BLOCK_INPUTS, axis=1)
    return generator.standard_normal((n_outputs, n_inputs), np.float32) * mask


def relative_error(result: Array, expected: Array) -> float:
    """Size of the difference over the size of the result."""
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))


def measure_shape(
    shape: tuple[int, int], n_tokens: int, sparsities: Sequence[float], *, instruction_set: str, seconds: float
) -> list[dict[str, Any]]:
    """The cases of one shape and number of tokens; oneDNN's product is measured once for all of them."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((n_tokens, shape[1]), np.float32)
    weights = {sparsity: random_weight(*shape, sparsity, generator) for sparsity in sparsities}
    dense = random_weight(*shape, 0.0, generator)
    ours = {
        sparsity: engine_product(x, weight, instruction_set=instruction_set, n_copies=_n_copies(shape, sparsity))
        for sparsity, weight in weights.items()
    }
    theirs = onednn_product(x, dense, n_copies=_n_copies(shape, 0.0))
    onednn_error = relative_error(theirs().numpy(), x @ dense.T)
    errors = {}
    for sparsity, product in ours.items():
        product.run()
        errors[sparsity] = relative_error(product.result(), x @ weights[sparsity].T)

    calls: dict[str, Call] = {"onednn": lambda i: theirs()}
    calls |= {str(sparsity): _runs(product) for sparsity, product in ours.items()}
    times = measure_in_turns(calls, seconds=seconds, n_threads=1)
    onednn_us = 1e3 * times["onednn"].median_ms
    cases = []
    for sparsity, product in ours.items():
        engine_us = 1e3 * times[str(sparsity)].median_ms / RUNS_IN_A_TURN
        cases.append(
            {
                "shape": list(shape),
                "n_tokens": n_tokens,
                "sparsity": sparsity,
                "stored": "sparse" if product.sparse else "dense",
                "engine_us": engine_us,
                "onednn_us": onednn_us,
                "ratio": onednn_us / engine_us,
                "n_repeats": times[str(sparsity)].n_repeats,
                "error": errors[sparsity],
                "onednn_error": onednn_error,
            }
        )
    return cases


def _n_copies(shape: tuple[int, int], sparsity: float) -> int:
    return math.ceil(OUT_OF_CACHE / n_kept_weights(*shape, sparsity)) + 1


def _runs(product: _native.Product) -> Call:
    return lambda i: product.run(RUNS_IN_A_TURN)


def cost_of_a_call(*, seconds: float) -> float:
    """Microseconds that a call of oneDNN's product takes by itself."""
    n_tokens, n_outputs, n_inputs = TINY
    generator = np.random.default_rng(0)
    x = generator.standard_normal((n_tokens, n_inputs), np.float32)
    tiny = onednn_product(x, generator.standard_normal((n_outputs, n_inputs), np.float32))
    return 1e3 * measure_in_turns({"tiny": lambda i: tiny()}, seconds=seconds, n_threads=1)["tiny"].median_ms


def summarise(cases: Sequence[dict[str, Any]], call_us: float) -> dict[str, dict[str, float]]:
    """By sparsity in per cent: the median ratio, the worst, and the median with the cost of oneDNN's calls left out."""
    summary = {}
    for sparsity in sorted({case["sparsity"] for case in cases}):
        chosen = [case for case in cases if case["sparsity"] == sparsity]
        ratios = [case["ratio"] for case in chosen]
        less_calls = [(case["onednn_us"] - call_us) / case["engine_us"] for case in chosen]
        summary[f"{100 * sparsity:.0f}"] = {
            "ratio": statistics.median(ratios),
            "worst": min(ratios),
            "ratio_less_calls": statistics.median(less_calls),
            "worst_less_calls": min(less_calls),
        }
    return summary


def main() -> None:
    """Measure and print; exit status 1 if a product is wrong."""
    usable = [each.name for each in instruction_sets() if each.usable]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document as the last line")
    parser.add_argument("--seconds", type=float, default=2.0, help="for one shape and number of tokens")
    parser.add_argument("--instruction-set", choices=usable, default=usable[0])
    parser.add_argument("--shapes", nargs="+", choices=list(map(_name, SHAPES)), default=list(map(_name, SHAPES)))
    parser.add_argument("--tokens", nargs="+", type=int, default=list(TOKENS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine = describe_machine()
    say(f"{machine['name']}; commit {machine['commit']}; engine on {arguments.instruction_set}; one core")
    cases = []
    with cores(1), torch.inference_mode():
        call_us = cost_of_a_call(seconds=min(1.0, arguments.seconds))
        say(f"a call of oneDNN by itself: {call_us:.1f} us")
        say("outputs x inputs  tokens    oneDNN us" + "".join(f"  engine us, {100 * s:2.0f}% zero" for s in SPARSITIES))
        for shape in (shape for shape in SHAPES if _name(shape) in arguments.shapes):
            for n_tokens in arguments.tokens:
                found = measure_shape(
                    shape, n_tokens, SPARSITIES, instruction_set=arguments.instruction_set, seconds=arguments.seconds
                )
                times = "".join(f"{case['engine_us']:12.1f} ({case['ratio']:5.2f} x)" for case in found)
                say(f"{_name(shape):>16s} {n_tokens:7d} {found[0]['onednn_us']:12.1f}{times}")
                cases += found
    summary = summarise(cases, call_us)
    for sparsity, values in summary.items():
        say(
            f"{sparsity:>2s}% zero: {values['ratio']:.2f} x in the median, {values['worst']:.2f} x at worst; without "
            f"the cost of oneDNN's calls {values['ratio_less_calls']:.2f} x and {values['worst_less_calls']:.2f} x"
        )
    worst_error = max(max(case["error"], case["onednn_error"]) for case in cases)
    say(f"largest error: {worst_error:.4f} of the result (allowed: {LARGEST_ERROR})")
    if arguments.json:
        document = {"machine": machine, "isa": arguments.instruction_set, "onednn_call_us": call_us}
        print(json.dumps({**document, "cases": cases, "medians": summary}))
    if worst_error > LARGEST_ERROR:
        sys.exit(1)


def _name(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"


if __name__ == "__main__":
    main()
