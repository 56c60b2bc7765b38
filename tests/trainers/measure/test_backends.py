# SPDX-License-Identifier: Apache-2.0
"""The contract of every runtime whose latency is measured; a new one joins by a class of one line at the end."""

from __future__ import annotations

import sys
import time
from typing import ClassVar

import numpy as np
import pytest
import torch

from runtime.engine import INSTRUCTION_SET, engine_identity, instruction_sets
from runtime.folder import expected_tensors
from spaces.profile import Runtime
from spaces.student import Activation, Dense, EncoderSpec, Pooling, Projection, StaticSpec, StudentSpec, Switch
from trainers.measure.backends.backend import Backend, embed_sentences
from trainers.measure.backends.runtimes import backend_of
from trainers.measure.latency import limit_threads
from trainers.measure.random_student import random_student, random_weights, table_size
from trainers.modules.build import student_from_weights
from trainers.modules.embed import embed_tokens

LEAST_COSINE = 0.99  # of a runtime that rounds, with float32; the engine's own tests are stricter
NOTICEABLE = 0.15  # of other threads' CPU time beside the calling one's: none would be 0, a second one about 1


def encoder(**changes: object) -> EncoderSpec:
    fields = {"n_layers": 2, "width": 32, "n_heads": 2, "head_width": 16, "feed_forward": Dense(units=64)}
    return EncoderSpec(**{**fields, "max_tokens": 16, **changes})  # type: ignore[arg-type]


SPECS = {
    "dense": StudentSpec(vocabulary_size=50, output_dim=32, encoder=encoder()),
    "switch": StudentSpec(
        vocabulary_size=50, output_dim=32, encoder=encoder(feed_forward=Switch(n_experts=2, units=16))
    ),
    "sparse": StudentSpec(vocabulary_size=50, output_dim=32, encoder=encoder(sparsity=0.5)),
    "projected": StudentSpec(
        vocabulary_size=50,
        output_dim=24,
        encoder=encoder(
            pooling=Pooling.CLS, projection=Projection.TANH, embedding_dim=8, activation=Activation.GELU_TANH
        ),
    ),
    "static": StudentSpec(vocabulary_size=50, output_dim=32, static=StaticSpec()),
    "both": StudentSpec(vocabulary_size=50, output_dim=32, encoder=encoder(), static=StaticSpec(embedding_dim=8)),
}
LARGE = StudentSpec(
    vocabulary_size=50,
    output_dim=512,
    encoder=encoder(width=512, n_heads=8, head_width=64, feed_forward=Dense(units=2048), max_tokens=128),
)


def sentences(spec: StudentSpec) -> tuple[np.ndarray, np.ndarray]:
    """Token ids end to end and offsets: sentences of 1 to 16 tokens, more than once each length, out of order."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 17, size=40)
    ids = generator.integers(0, spec.vocabulary_size, size=lengths.sum()).astype(np.int32)
    return ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def share_of_other_threads(backend: Backend, n_threads: int) -> float:
    """CPU time of threads other than the calling one, divided by its own, while a large student embeds."""
    with limit_threads(n_threads), torch.inference_mode():
        student = random_student(backend, LARGE, n_threads=n_threads)
        call = student.prepare([np.zeros((4, 128), dtype=np.int64)])
        call(0)
        process, thread = time.process_time_ns(), time.thread_time_ns()
        for i in range(6):
            call(i)
        own = time.thread_time_ns() - thread
        return (time.process_time_ns() - process - own) / own


class BackendContract:
    """What holds on every runtime."""

    runtime: ClassVar[Runtime]

    @pytest.fixture
    def backend(self) -> Backend:
        backend = backend_of(self.runtime)
        missing = backend.missing()
        if missing is not None:
            pytest.skip(f"{' and '.join(missing.parts)} not found: {missing.remedy}")
        return backend

    @pytest.mark.parametrize("name", SPECS)
    def test_vectors_are_those_of_torch(self, backend: Backend, name: str) -> None:
        spec = SPECS[name]
        weights = random_weights(spec, seed=1)
        before = {key: array.copy() for key, array in weights.items()}
        ids, offsets = sentences(spec)
        vectors = embed_sentences(backend.build(spec, weights, n_threads=1), ids, offsets)
        expected = embed_tokens(student_from_weights(spec, weights), ids, offsets)
        assert vectors.shape == (40, spec.output_dim) and vectors.dtype == np.float32
        if backend.is_exact:
            np.testing.assert_allclose(vectors, expected, atol=1e-5)
        else:
            assert np.einsum("nd,nd->n", vectors, expected).min() > LEAST_COSINE
            assert not np.allclose(vectors, expected, atol=1e-6), "so it is exact, and should say so"
        assert all(np.array_equal(weights[key], before[key]) for key in weights), "weights are shared"

    @pytest.mark.parametrize("n_threads", [1, 2])
    def test_call_i_embeds_input_i_and_begins_again_after_the_last(self, backend: Backend, n_threads: int) -> None:
        spec = SPECS["both"]
        student = random_student(backend, spec, n_threads=n_threads)
        assert student.spec == spec
        inputs = list(np.random.default_rng(0).integers(0, spec.vocabulary_size, size=(3, 2, 7)))
        call = student.prepare(inputs)
        vectors = [np.asarray(call(i)).copy() for i in range(7)]
        assert all(each.shape == (2, spec.output_dim) for each in vectors)
        for i in range(7):
            flat = inputs[i % 3].astype(np.int32).reshape(-1)
            alone = embed_sentences(student, flat, np.array([0, 7, 14], dtype=np.int64))
            np.testing.assert_allclose(vectors[i], alone, atol=1e-6)
        assert not np.allclose(vectors[0], vectors[1], atol=1e-3)

    def test_one_thread_is_one_thread(self, backend: Backend) -> None:
        assert share_of_other_threads(backend, 1) < NOTICEABLE

    def test_weights_of_another_spec_are_refused(self, backend: Backend) -> None:
        spec, weights = SPECS["dense"], random_weights(SPECS["dense"])
        with pytest.raises(ValueError, match=r"embeddings\.tokens must have the shape \(50, 32\), got \(49, 32\)"):
            backend.build(spec, weights | {"embeddings.tokens": weights["embeddings.tokens"][1:]}, n_threads=1)
        del weights["layers.0.attention.qkv.weight"]
        with pytest.raises(ValueError, match=r"layers\.0\.attention\.qkv\.weight"):
            backend.build(spec, weights, n_threads=1)

    def test_the_identity_is_one_line_that_stays(self, backend: Backend) -> None:
        assert backend.identity() == backend.identity() == backend_of(self.runtime).identity()
        assert backend.identity().strip() and len(backend.identity().splitlines()) == 1

    def test_what_is_missing_has_a_name_and_a_remedy(self) -> None:
        missing = backend_of(self.runtime).missing()
        assert missing is None or (missing.parts and all(missing.parts) and missing.remedy)


class TestEngine(BackendContract):
    runtime = Runtime.ENGINE


class TestTorch(BackendContract):
    runtime = Runtime.TORCH


class TestOnnx(BackendContract):
    runtime = Runtime.ONNX


class TestNumpy(BackendContract):
    runtime = Runtime.NUMPY


def test_every_runtime_keeps_the_contract() -> None:
    assert sorted(each.runtime for each in BackendContract.__subclasses__()) == sorted(Runtime)


def test_no_two_runtimes_share_an_identity() -> None:
    assert len({backend_of(runtime).identity() for runtime in Runtime}) == len(Runtime)


def test_a_second_thread_is_seen() -> None:
    assert share_of_other_threads(backend_of(Runtime.ONNX), 2) > NOTICEABLE


def test_the_engines_identity_is_its_build_and_the_instruction_set_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INSTRUCTION_SET, raising=False)
    usable = [each.name for each in instruction_sets() if each.usable]
    chosen = engine_identity()
    identities = []
    for name in usable:
        monkeypatch.setenv(INSTRUCTION_SET, name)
        identities.append(engine_identity())
    assert len(set(identities)) == len(usable)
    assert chosen == identities[0], "the fastest is taken unless another is forced"


def test_packages_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not there
    missing = backend_of(Runtime.ONNX).missing()
    assert missing is not None
    assert missing.parts == ("onnxruntime",)
    assert "understudy[export]" in missing.remedy


def test_token_tables_are_parts_of_one_that_is_given() -> None:
    spec = SPECS["both"]
    table = np.random.default_rng(3).standard_normal(table_size(spec), np.float32)
    weights = random_weights(spec, table=table)
    assert {name: array.shape for name, array in weights.items()} == expected_tensors(spec)
    for name in ("embeddings.tokens", "static.tokens"):
        assert np.shares_memory(weights[name], table)


def test_torch_copies_no_token_table() -> None:
    spec = SPECS["static"]
    weights = random_weights(spec)
    student = backend_of(Runtime.TORCH).build(spec, weights, n_threads=1)
    call = student.prepare([np.full((1, 1), 3, dtype=np.int64)])
    before = np.asarray(call(0)).copy()
    weights["static.tokens"][3] *= -1.0
    np.testing.assert_allclose(np.asarray(call(0)), -before, atol=1e-6)
