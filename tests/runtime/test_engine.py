# SPDX-License-Identifier: Apache-2.0
"""The engine equals NumPy up to its eight bits, and itself whatever the batch, the threads and the zeros stored."""

import re
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import Encoder, Engine, _native, engine_identity, expected_tensors, instruction_sets
from runtime.engine import _shape
from spaces.student import (
    Activation,
    Dense,
    EncoderSpec,
    Pooling,
    Projection,
    StaticSpec,
    StudentSpec,
    Switch,
)

USABLE = [instruction_set.name for instruction_set in instruction_sets() if instruction_set.usable]
LENGTHS = [1, 2, 15, 16, 17, 31, 32, 33, 47, 64, 5, 90]


def encoder(width: int = 64, *, n_heads: int = 4, head_width: int = 16, units: int = 128) -> EncoderSpec:
    return EncoderSpec(
        n_layers=2, width=width, n_heads=n_heads, head_width=head_width, feed_forward=Dense(units=units), max_tokens=96
    )


def student(
    layers: EncoderSpec | None, *, dim: int = 64, static: StaticSpec | None = None, normalise: bool = True
) -> StudentSpec:
    return StudentSpec(vocabulary_size=300, output_dim=dim, encoder=layers, static=static, normalise=normalise)


SPECS = {
    "dense": student(encoder()),
    "odd sizes": student(encoder(60, n_heads=3, head_width=12, units=130), dim=60),
    "wide heads": student(encoder(128, n_heads=2, head_width=64, units=256), dim=128),
    "wider heads": student(encoder(96, n_heads=1, head_width=96, units=40), dim=96),
    "first token, tanh": student(replace(encoder(), pooling=Pooling.CLS, projection=Projection.TANH), dim=48),
    "relu, linear": student(replace(encoder(), activation=Activation.RELU, projection=Projection.LINEAR), dim=50),
    "gelu by tanh, factorised": student(replace(encoder(), activation=Activation.GELU_TANH, embedding_dim=20)),
    "switch": student(replace(encoder(), feed_forward=Switch(n_experts=5, units=48))),
    "static": student(None, static=StaticSpec()),
    "factorised static": student(None, static=StaticSpec(embedding_dim=20), normalise=False),
    "both paths": student(encoder(), static=StaticSpec(embedding_dim=20)),
    "not normalised": student(encoder(), normalise=False),
    "sparse": student(replace(encoder(), sparsity=0.8)),
}


def weights_for(spec: StudentSpec, *, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Weights as a trained student's: norms near 1, matrices that keep sizes, blocks of zeros where it is sparse."""
    generator = np.random.default_rng(seed)
    weights = {}
    for name, shape in expected_tensors(spec).items():
        values = generator.standard_normal(shape)
        if "norm.weight" in name:
            values = 1.0 + 0.1 * values
        elif name.endswith("bias"):
            values *= 0.1
        elif len(shape) > 1 and ("layers" in name or "projection" in name or "expand" in name):
            values /= np.sqrt(shape[-1])
        weights[name] = values.astype(np.float32)
    if spec.encoder is not None and spec.encoder.sparsity:
        for layer in range(spec.encoder.n_layers):
            for name, n_outputs, n_inputs in spec.encoder.matrix_shapes():
                kept = generator.random((n_outputs // 16, n_inputs // 4)) >= spec.encoder.sparsity
                weights[f"layers.{layer}.{name}.weight"] *= np.repeat(np.repeat(kept, 16, axis=0), 4, axis=1)
    return weights


def sentences(lengths: list[int], *, seed: int = 1) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return generator.integers(0, 300, size=int(offsets[-1])).astype(np.int32), offsets


def exact(spec: StudentSpec, weights: dict[str, NDArray[np.float32]], lengths: list[int]) -> NDArray[np.float32]:
    token_ids, offsets = sentences(lengths)
    oracle = Encoder(spec, weights)
    return np.concatenate([oracle.forward(token_ids[None, start:end]) for start, end in pairwise(offsets)])


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    cosine: NDArray[np.float32] = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return cosine


@pytest.mark.parametrize("instruction_set", USABLE)
@pytest.mark.parametrize("name", SPECS)
def test_every_student_is_numpys_up_to_eight_bits(name: str, instruction_set: str) -> None:
    spec = SPECS[name]
    weights = weights_for(spec)
    engine = Engine(spec, weights, instruction_set=instruction_set)
    assert engine.instruction_set == instruction_set
    expected, found = exact(spec, weights, LENGTHS), engine.embed(*sentences(LENGTHS))
    assert cosines(found, expected).mean() > 0.998
    # A token that the router finds almost as fit for another expert may go there after rounding.
    assert cosines(found, expected).min() > (0.98 if name == "switch" else 0.999)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1), rtol=0.02)


@pytest.mark.parametrize("instruction_set", USABLE)
@pytest.mark.parametrize("name", ["dense", "odd sizes", "first token, tanh", "switch", "both paths", "sparse"])
def test_company_order_and_threads_change_no_bit(name: str, instruction_set: str) -> None:
    spec = SPECS[name]
    engine = Engine(spec, weights_for(spec), instruction_set=instruction_set)
    token_ids, offsets = sentences(LENGTHS * 3)
    together = engine.embed(token_ids, offsets)
    for n_threads in (2, 3, 7):
        np.testing.assert_array_equal(engine.embed(token_ids, offsets, n_threads=n_threads), together)
    for i in range(len(LENGTHS)):
        alone, ends = token_ids[offsets[i] : offsets[i + 1]], np.array([0, offsets[i + 1] - offsets[i]])
        for n_threads in (1, 2):
            np.testing.assert_array_equal(engine.embed(alone, ends, n_threads=n_threads)[0], together[i])
    order = np.random.default_rng(0).permutation(len(offsets) - 1)
    shuffled = np.concatenate([token_ids[offsets[i] : offsets[i + 1]] for i in order])
    ends = np.concatenate([[0], np.cumsum(np.diff(offsets)[order])])
    np.testing.assert_array_equal(engine.embed(shuffled, ends), together[order])


@pytest.mark.parametrize("instruction_set", USABLE)
@pytest.mark.parametrize("n_tokens", [1, 16, 17, 33, 64, 100])
def test_a_sparse_product_is_the_dense_one_to_the_bit(n_tokens: int, instruction_set: str) -> None:
    generator = np.random.default_rng(0)
    kept = generator.random((7, 33)) < 0.3
    kept[3] = False  # a panel without any weight
    weight = generator.standard_normal((112, 132)).astype(np.float32) * np.repeat(np.repeat(kept, 16, 0), 4, 1)
    x = generator.standard_normal((n_tokens, 132)).astype(np.float32)
    results = []
    for storage in ("dense", "sparse", "faster"):
        product = _native.Product(weight, storage, instruction_set)
        assert product.sparse == (storage != "dense")
        product.prepare(x)
        product.run()
        results.append(product.result())
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    expected = x @ weight.T
    np.testing.assert_allclose(results[0], expected, atol=0.02 * np.abs(expected).max())


def test_zero_blocks_are_left_out_of_a_student() -> None:
    spec = SPECS["sparse"]
    assert spec.encoder is not None
    sparse = Engine(spec, weights_for(spec))
    dense = Engine(SPECS["dense"], weights_for(SPECS["dense"]))
    assert sparse.n_sparse_matrices == 8
    assert dense.n_sparse_matrices == 0
    assert sparse.n_bytes < dense.n_bytes


def test_features_of_very_different_sizes_keep_their_precision() -> None:
    spec = SPECS["dense"]
    weights = weights_for(spec)
    for name in ("embeddings.norm", "layers.0.feed_forward.norm"):
        weights[f"{name}.weight"][7] = weights[f"{name}.bias"][7] = 30.0
    weights["layers.0.attention.qkv.weight"][:, 7] *= 0.03
    weights["layers.1.attention.qkv.weight"][:, 7] *= 0.03
    found = Engine(spec, weights).embed(*sentences(LENGTHS))
    assert cosines(found, exact(spec, weights, LENGTHS)).min() > 0.999


def test_threads_embed_through_one_engine_at_once() -> None:
    spec = SPECS["both paths"]
    engine = Engine(spec, weights_for(spec))
    inputs = [sentences(LENGTHS, seed=seed) for seed in range(4)]
    expected = [engine.embed(*given) for given in inputs]
    wrong: list[int] = []

    def work(which: int) -> None:
        for turn in range(30):
            if not np.array_equal(engine.embed(*inputs[which], n_threads=1 + turn % 3), expected[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_forked_process_has_its_own_threads() -> None:
    code = """
import os, numpy as np
from tests.runtime.test_engine import SPECS, LENGTHS, Engine, sentences, weights_for
engine = Engine(SPECS["dense"], weights_for(SPECS["dense"]))
expected = engine.embed(*sentences(LENGTHS), n_threads=2)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(engine.embed(*sentences(LENGTHS), n_threads=2), expected) else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_engines_of_a_forked_process_keep_their_threads_apart() -> None:
    # The threads that the child starts may have the handles of those that it lacks.
    code = """
import os, numpy as np
from tests.runtime.test_engine import SPECS, LENGTHS, Engine, sentences, weights_for
engines = [Engine(SPECS["dense"], weights_for(SPECS["dense"])) for _ in range(4)]
for engine in engines:
    engine.embed(*sentences(LENGTHS), n_threads=2)
child = os.fork()
if child == 0:
    for engine in [*reversed(engines), *engines]:
        engine.embed(*sentences(LENGTHS), n_threads=3)
    del engine, engines
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_padded_batches_equal_sentences_end_to_end() -> None:
    spec = SPECS["dense"]
    engine = Engine(spec, weights_for(spec))
    token_ids, offsets = sentences([5, 1, 20])
    batch, mask = np.zeros((3, 20), np.int32), np.arange(20) < np.array([[5], [1], [20]])
    batch[mask] = token_ids
    np.testing.assert_array_equal(engine.forward(batch, mask), engine.embed(token_ids, offsets))
    with pytest.raises(ValueError, match="must stand first in each row; pad at the right"):
        engine.forward(batch, mask[:, ::-1])


def test_no_sentences_and_sentences_without_tokens() -> None:
    for name in ("dense", "static", "first token, tanh"):
        spec = SPECS[name]
        weights = weights_for(spec)
        engine = Engine(spec, weights)
        assert engine.embed(np.zeros(0, np.int32), np.zeros(1, np.int64)).shape == (0, spec.output_dim)
        token_ids, _ = sentences([4])
        vectors = engine.embed(token_ids, np.array([0, 0, 4, 4]))
        assert np.isfinite(vectors).all()
        np.testing.assert_array_equal(vectors[1], engine.embed(token_ids, np.array([0, 4]))[0])


def test_constant_and_huge_activations_stay_finite() -> None:
    spec = SPECS["dense"]
    for factor in (0.0, 1e-30, 1e-38, 1e-44, 1e6):
        weights = {name: value * np.float32(factor) for name, value in weights_for(spec).items()}
        assert np.isfinite(Engine(spec, weights).embed(*sentences(LENGTHS))).all()


@pytest.mark.parametrize(
    ("offsets", "n_threads", "message"),
    [
        ([0, 3], 1, "offsets must run from 0 to the number of tokens"),
        ([1, 4], 1, "offsets must run from 0"),
        ([0, 3, 2, 4], 1, "offsets must not fall"),
        ([0, 9, 4], 1, "offsets must not"),
        ([0, -(2**62), 4], 1, "offsets must not fall"),
        ([], 1, "offsets must hold at least one number"),
        ([0, 4], 0, "n_threads must lie in 1 to 1024, got 0"),
        ([0, 4], 10**6, "n_threads must lie in 1 to 1024"),
    ],
)
def test_impossible_calls_are_refused(offsets: list[int], n_threads: int, message: str) -> None:
    engine = Engine(SPECS["dense"], weights_for(SPECS["dense"]))
    with pytest.raises(ValueError, match=message):
        engine.embed(np.zeros(4, np.int32), np.array(offsets, np.int64), n_threads=n_threads)


@pytest.mark.parametrize("token_id", [-1, 300, 2**31 - 1, -(2**31)])
def test_tokens_outside_the_vocabulary_are_refused(token_id: int) -> None:
    engine = Engine(SPECS["static"], weights_for(SPECS["static"]))
    with pytest.raises(ValueError, match=f"token ids must lie in 0 to 299, got {token_id}; use the student's own"):
        engine.embed(np.array([1, token_id], np.int32), np.array([0, 2]))


@pytest.mark.parametrize("token_id", [2**32 + 1, 2**63 - 1, -(2**32) + 1, 2**63 + 1])
def test_tokens_and_offsets_of_more_bits_are_never_cut_to_others(token_id: int) -> None:
    engine = Engine(SPECS["static"], weights_for(SPECS["static"]))
    kind = np.uint64 if token_id >= 2**63 else np.int64
    with pytest.raises(ValueError, match="token_ids must fit 32 bits"):
        engine.embed(np.array([1, token_id], kind), np.array([0, 2]))
    with pytest.raises(ValueError, match="offsets must"):
        engine.embed(np.array([1, 2]), np.array([0, token_id, 2], kind))
    expected = engine.embed(np.array([1, 2], np.int32), np.array([0, 2]))
    for kind in (np.uint8, np.int16, np.int64, np.uint64):
        np.testing.assert_array_equal(engine.embed(np.array([1, 2], kind), np.array([0, 2], kind)), expected)


def test_too_long_sentences_are_refused() -> None:
    engine = Engine(SPECS["dense"], weights_for(SPECS["dense"]))
    with pytest.raises(ValueError, match="at most 96 tokens fit this student, got 97; cut the sentences"):
        engine.embed(np.zeros(97, np.int32), np.array([0, 97]))


def test_an_unknown_or_unusable_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = weights_for(SPECS["static"])
    with pytest.raises(ValueError, match=r"no instruction set is called sse9; choose one of .*portable"):
        Engine(SPECS["static"], weights, instruction_set="sse9")
    monkeypatch.setenv("UNDERSTUDY_INSTRUCTION_SET", "portable")
    assert Engine(SPECS["static"], weights).instruction_set == "portable"
    for instruction_set in instruction_sets():
        if not instruction_set.usable:
            with pytest.raises(ValueError, match=f"{instruction_set.name} cannot be used here"):
                Engine(SPECS["static"], weights, instruction_set=instruction_set.name)


def test_the_identity_names_the_instruction_set_that_an_engine_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = weights_for(SPECS["static"])
    monkeypatch.delenv("UNDERSTUDY_INSTRUCTION_SET", raising=False)
    assert engine_identity() == f"{_native.build_id()}-{Engine(SPECS['static'], weights).instruction_set}"
    identities = []
    for instruction_set in USABLE:
        monkeypatch.setenv("UNDERSTUDY_INSTRUCTION_SET", instruction_set)
        assert Engine(SPECS["static"], weights).instruction_set == instruction_set
        assert re.fullmatch(f"[0-9a-f]{{16}}-{instruction_set}", engine_identity())
        identities.append(engine_identity())
    assert len(set(identities)) == len(USABLE)
    monkeypatch.setenv("UNDERSTUDY_INSTRUCTION_SET", "sse9")
    with pytest.raises(ValueError, match=r"no instruction set is called sse9; choose one of .*portable"):
        engine_identity()


def test_the_identity_is_the_same_in_another_process() -> None:
    code = "from runtime import engine_identity; print(engine_identity())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{engine_identity()}\n"


@pytest.mark.parametrize("name", ["dense", "static"])
@pytest.mark.parametrize(
    "change",
    [
        {"width": -(2**31)},
        {"width": 2**31 - 1},
        {"n_heads": 2**31 - 1},
        {"head_width": 65_536},
        {"n_layers": -1},
        {"static_dim": 2**31 - 1},
        {"output_dim": 0},
        {"vocabulary_size": 2**31 - 1},
    ],
)
def test_impossible_shapes_are_refused_before_anything_is_taken(name: str, change: dict[str, int]) -> None:
    spec = SPECS[name]
    with pytest.raises(ValueError, match="must"):
        _native.Student(_shape(spec) | change, weights_for(spec), "")


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), float("inf")])
def test_an_epsilon_that_is_not_positive_is_refused(epsilon: float) -> None:
    spec = SPECS["dense"]
    with pytest.raises(ValueError, match="layer_norm_epsilon must be positive and finite"):
        _native.Student(_shape(spec) | {"layer_norm_epsilon": epsilon}, weights_for(spec), "")


@pytest.mark.parametrize("instruction_set", USABLE)
def test_the_widest_product_does_not_overflow(instruction_set: str) -> None:
    weight, x = np.ones((1, 65_536), np.float32), np.ones((1, 65_536), np.float32)
    product = _native.Product(weight, "dense", instruction_set)
    product.prepare(x)
    product.run()
    np.testing.assert_allclose(product.result(), [[65_536.0]], rtol=1e-3)
    with pytest.raises(ValueError, match="1 to 65,536 inputs, got 1 x 65537"):
        _native.Product(np.ones((1, 65_537), np.float32), "dense", instruction_set)


def test_products_of_nothing_are_refused() -> None:
    for shape in [(0, 4), (4, 0), (2**32 + 5, 0)]:
        with pytest.raises(ValueError, match="outputs"):
            _native.Product(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="storage must be faster, dense or sparse, got hollow"):
        _native.Product(np.zeros((4, 4), np.float32), "hollow")
    product = _native.Product(np.ones((4, 1), np.float32))
    assert product.result().shape == (0, 4)
    with pytest.raises(ValueError, match=r"tokens may be at most 2\^24, got 16777217"):
        product.prepare(np.zeros((2**24 + 1, 1), np.float32))


def test_foreign_weights_are_refused() -> None:
    weights = weights_for(SPECS["dense"])
    with pytest.raises(ValueError, match="missing"):
        Engine(SPECS["dense"], {name: value for name, value in weights.items() if "qkv" not in name})
    with pytest.raises(ValueError, match="NaN or infinite"):
        Engine(SPECS["dense"], weights | {"embeddings.norm.bias": np.full(64, np.nan, np.float32)})
    with pytest.raises(ValueError, match="must have the shape"):
        Engine(SPECS["dense"], weights | {"embeddings.norm.bias": np.zeros(63, np.float32)})
