# SPDX-License-Identifier: Apache-2.0
"""Batching changes when sentences are encoded and with which others, never what comes out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from runtime import Engine, load
from runtime.layers import Array
from runtime.service.batcher import Batcher
from runtime.service.sentence_encoder import Sentence
from tests.runtime.tiny_student import ATOL, random_sentences, tokenised, write_tiny_student

Result = TypeVar("Result")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_student(tmp_path_factory.mktemp("batcher") / "student")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Engine:
    return load(folder)


class Gated:
    """The student's encoding, held back while the gate is shut; remembers the size and tokens of every batch."""

    def __init__(self, encoder: Engine) -> None:
        self._encode = encoder.encode_token_ids
        self.gate = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, sentences: Sequence[Sentence]) -> Array:
        self.batches.append([len(sentence) for sentence in sentences])
        assert self.gate.wait(timeout=10)
        return self._encode(sentences)

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


def run(work: Callable[[], Awaitable[Result]]) -> Result:
    """The result of a coroutine in an event loop of its own."""

    async def main() -> Result:
        return await work()

    return asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


def test_what_waits_at_the_same_time_is_encoded_together(encoder: Engine) -> None:
    gated = Gated(encoder)
    texts = random_sentences(6, seed=0)

    async def work() -> list[Array]:
        batcher = Batcher(gated, max_sentences=64, max_tokens=1000)
        first = asyncio.create_task(batcher.encode(tokenised(encoder, texts[:1])))
        await until(lambda: gated.sizes == [1])  # a sentence that comes alone is not kept waiting
        others = [asyncio.create_task(batcher.encode(tokenised(encoder, [text]))) for text in texts[1:]]
        await until(lambda: batcher.n_waiting == 5)
        gated.gate.set()
        vectors = await asyncio.gather(first, *others)
        await batcher.close()
        return vectors

    vectors = run(work)
    assert gated.sizes == [1, 5]
    np.testing.assert_allclose(np.concatenate(vectors), encoder.encode(texts), atol=ATOL)


@pytest.mark.parametrize(("max_sentences", "max_tokens"), [(1, 1000), (7, 1000), (64, 25), (64, 1), (1000, 100_000)])
def test_every_caller_has_its_own_vectors_and_no_batch_is_too_large(
    encoder: Engine, max_sentences: int, max_tokens: int
) -> None:
    gated = Gated(encoder)
    gated.gate.set()
    observed: list[tuple[int, int]] = []
    requests = [random_sentences(1 + 5 * i % 23, seed=i) for i in range(20)]

    async def work() -> list[Array]:
        batcher = Batcher(
            gated,
            max_sentences=max_sentences,
            max_tokens=max_tokens,
            observe=lambda n_sentences, n_tokens, seconds: observed.append((n_sentences, n_tokens)),
        )
        vectors = await asyncio.gather(*(batcher.encode(tokenised(encoder, request)) for request in requests))
        await batcher.close()
        return vectors

    for request, vectors in zip(requests, run(work), strict=True):
        np.testing.assert_allclose(vectors, encoder.encode(request), atol=ATOL)
    assert all(len(batch) <= max_sentences for batch in gated.batches)
    assert all(sum(batch) <= max_tokens or len(batch) == 1 for batch in gated.batches)
    assert sum(gated.sizes) == sum(map(len, requests))
    assert observed == [(len(batch), sum(batch)) for batch in gated.batches]


def test_a_short_request_does_not_stand_behind_a_long_one(encoder: Engine) -> None:
    gated = Gated(encoder)
    finished: list[str] = []

    async def ask(batcher: Batcher, name: str, n: int) -> None:
        await batcher.encode(tokenised(encoder, random_sentences(n, seed=n)))
        finished.append(name)

    async def work() -> None:
        batcher = Batcher(gated, max_sentences=2, max_tokens=1000)
        long = asyncio.create_task(ask(batcher, "long", 20))
        await until(lambda: gated.sizes == [2])
        short = asyncio.create_task(ask(batcher, "short", 2))
        await until(lambda: batcher.n_waiting == 20)
        gated.gate.set()
        await asyncio.gather(long, short)
        await batcher.close()

    run(work)
    assert finished == ["short", "long"]


def test_an_error_reaches_the_caller_at_fault_alone(encoder: Engine) -> None:
    gated = Gated(encoder)
    good = random_sentences(3, seed=1)
    bad = np.array([1, 999, 2], dtype=np.int32)

    async def work() -> tuple[list[Array | BaseException], Array]:
        batcher = Batcher(gated, max_sentences=64, max_tokens=1000)
        before = asyncio.create_task(batcher.encode(tokenised(encoder, good[:1])))
        await until(lambda: gated.sizes == [1])
        together = [batcher.encode(tokenised(encoder, [good[1]])), batcher.encode([bad])]
        tasks = [before, *map(asyncio.create_task, together)]
        await until(lambda: batcher.n_waiting == 2)
        gated.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        after = await batcher.encode(tokenised(encoder, good[2:]))
        await batcher.close()
        return results, after

    (first, second, third), after = run(work)
    assert isinstance(third, ValueError)
    assert "999" in str(third)
    vectors = [array for array in (first, second, after) if isinstance(array, np.ndarray)]
    np.testing.assert_allclose(np.concatenate(vectors), encoder.encode(good), atol=ATOL)
    assert gated.sizes == [1, 2, 1, 1, 1]


def test_a_long_request_that_fails_leaves_the_queue(encoder: Engine) -> None:
    gated = Gated(encoder)
    gated.gate.set()
    bad = np.array([999], dtype=np.int32)

    async def work() -> int:
        batcher = Batcher(gated, max_sentences=2, max_tokens=1000)
        with pytest.raises(ValueError, match="999"):
            await batcher.encode([bad] * 20)
        waiting = batcher.n_waiting
        await batcher.close()
        return waiting

    assert run(work) == 0
    assert gated.sizes == [2]


def test_a_caller_that_leaves_is_not_encoded(encoder: Engine) -> None:
    gated = Gated(encoder)

    async def work() -> None:
        batcher = Batcher(gated, max_sentences=64, max_tokens=1000)
        stays = asyncio.create_task(batcher.encode(tokenised(encoder, ["the cat"])))
        await until(lambda: gated.sizes == [1])
        leaves = asyncio.create_task(batcher.encode(tokenised(encoder, random_sentences(5, seed=0))))
        await until(lambda: batcher.n_waiting == 5)
        leaves.cancel()
        await asyncio.wait([leaves])
        assert leaves.cancelled()
        assert batcher.n_waiting == 0
        gated.gate.set()
        await stays
        await batcher.close()

    run(work)
    assert gated.sizes == [1]


def test_closing_finishes_what_waits_and_takes_no_more(encoder: Engine) -> None:
    gated = Gated(encoder)
    texts = random_sentences(9, seed=4)

    async def work() -> Array:
        batcher = Batcher(gated, max_sentences=2, max_tokens=1000)
        asked = asyncio.create_task(batcher.encode(tokenised(encoder, texts)))
        await until(lambda: gated.sizes == [2])
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)  # it has begun
        assert batcher.n_waiting == 7
        with pytest.raises(RuntimeError, match="being closed"):
            await batcher.encode(tokenised(encoder, ["the cat"]))
        gated.gate.set()
        await closing
        return await asked

    np.testing.assert_allclose(run(work), encoder.encode(texts), atol=ATOL)


def test_a_batch_that_is_full_does_not_wait(encoder: Engine) -> None:
    gated = Gated(encoder)
    gated.gate.set()

    async def work() -> None:
        batcher = Batcher(gated, max_sentences=3, max_tokens=1000, max_wait_ms=3_600_000.0)
        await asyncio.gather(*(batcher.encode(tokenised(encoder, [text])) for text in random_sentences(3, seed=0)))
        last = asyncio.create_task(batcher.encode(tokenised(encoder, ["the cat"])))
        await until(lambda: batcher.n_waiting == 1)
        await batcher.close()  # nor does one that is the last
        await last

    run(work)
    assert gated.sizes == [3, 1]


def test_a_sentence_waits_for_others_as_long_as_it_may(encoder: Engine) -> None:
    gated = Gated(encoder)
    gated.gate.set()

    async def work() -> None:
        batcher = Batcher(gated, max_sentences=3, max_tokens=1000, max_wait_ms=20.0)
        await batcher.encode(tokenised(encoder, ["the cat"]))
        await batcher.close()

    run(work)
    assert gated.sizes == [1]
