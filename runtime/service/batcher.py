# SPDX-License-Identifier: Apache-2.0
"""Dynamic batching: sentences of concurrent requests are encoded together.

One worker takes the waiting sentences, encodes them in a separate thread and repeats: batches grow while an encoding
runs, and a single sentence is encoded at once. Sentences are taken from the callers round-robin, so that a long
request does not delay a short one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from runtime.layers import Array
from runtime.service.sentence_encoder import Sentence

Encode = Callable[[Sequence[Sentence]], Array]
"""Encodes sentences to vectors [n, output_dim]; called from one thread."""
Observe = Callable[[int, int, float], None]
"""Called with sentences, tokens and seconds of every encoded batch."""


class Batcher:
    """Batches the sentences of concurrent callers. Bound to the event loop in which it is created."""

    def __init__(
        self,
        encode: Encode,
        *,
        max_sentences: int,
        max_tokens: int,
        max_wait_ms: float = 0.0,
        observe: Observe = lambda n_sentences, n_tokens, seconds: None,
    ) -> None:
        """A batch has at most `max_sentences`, and `max_tokens` unless one sentence alone has more.

        With `max_wait_ms` a batch that is not full is encoded once its oldest sentence has waited that long.
        """
        self._encode = encode
        self._max_sentences = max_sentences
        self._max_tokens = max_tokens
        self._max_wait_s = max_wait_ms / 1000.0
        self._observe = observe
        self._waiting: deque[_Job] = deque()
        self._changed = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._worker = asyncio.get_running_loop().create_task(self._work())

    @property
    def n_waiting(self) -> int:
        """Number of sentences in the queue."""
        return sum(job.n_left for job in self._waiting)

    async def encode(self, sentences: Sequence[Sentence]) -> Array:
        """The vectors of one or more sentences, in order: [n, output_dim]. Raises what encoding them raises.

        A caller that is cancelled has its sentences taken out of the queue.
        """
        if self._closing:
            raise RuntimeError("a batcher that is being closed takes no sentences; make another one")
        job = _Job(sentences)
        self._waiting.append(job)
        self._changed.set()
        try:
            return await job.vectors
        except asyncio.CancelledError:
            self._forget(job)
            raise

    async def close(self) -> None:
        """Encode the queued sentences and stop; further sentences are refused."""
        self._closing = True
        self._changed.set()
        await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        while await self._sentences_wait():
            await self._encode_batch(self._take())

    async def _sentences_wait(self) -> bool:
        """Wait; True when a batch should be taken, False once the batcher is closed and empty."""
        while not self._waiting:
            if self._closing:
                return False
            await self._change()
        if self._max_wait_s:
            try:
                async with asyncio.timeout_at(min(job.arrived for job in self._waiting) + self._max_wait_s):
                    while not self._is_enough():
                        await self._change()
            except TimeoutError:
                pass
        return True

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _is_enough(self) -> bool:
        n_tokens = sum(job.n_tokens_left for job in self._waiting)
        return self._closing or self.n_waiting >= self._max_sentences or n_tokens >= self._max_tokens

    def _take(self) -> list[_Job]:
        """The jobs of the next batch: one sentence of each that waits, in turn, until the batch is full."""
        batch: dict[_Job, None] = {}  # an ordered set
        n_sentences = n_tokens = 0
        while self._waiting and n_sentences < self._max_sentences:
            job = self._waiting[0]
            n_tokens += len(job.sentences[job.n_taken])
            if n_sentences and n_tokens > self._max_tokens:
                break
            self._waiting.popleft()
            job.n_taken += 1
            n_sentences += 1
            batch[job] = None
            if job.n_left:
                self._waiting.append(job)
        return list(batch)

    async def _encode_batch(self, batch: list[_Job]) -> None:
        sentences = [sentence for job in batch for sentence in job.taken]
        if not sentences:  # every caller has left
            return
        start = time.perf_counter()
        try:
            vectors = await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, sentences)
            if len(vectors) != len(sentences):
                raise RuntimeError(f"an encoder must give one vector per sentence, got {vectors.shape}")
        except Exception as error:
            await self._encode_apart(batch, error)
            return
        n_tokens = sum(map(len, sentences))
        self._observe(len(sentences), n_tokens, time.perf_counter() - start)
        row = 0
        for job in batch:
            n_rows = len(job.taken)
            job.accept(vectors[row : row + n_rows])
            row += n_rows

    async def _encode_apart(self, batch: list[_Job], error: Exception) -> None:
        """After an error, encode each caller's sentences separately, so that only the one at fault gets it."""
        if len(batch) > 1:
            for job in batch:
                await self._encode_batch([job])
            return
        (job,) = batch
        self._forget(job)
        job.refuse(error)

    def _forget(self, job: _Job) -> None:
        if job in self._waiting:
            self._waiting.remove(job)
            self._changed.set()


class _Job:
    """One caller's sentences: the first `n_done` have their vectors, those up to `n_taken` are being encoded."""

    def __init__(self, sentences: Sequence[Sentence]) -> None:
        assert sentences, "a caller asks for at least one sentence"
        loop = asyncio.get_running_loop()
        self.sentences = sentences
        self.vectors: asyncio.Future[Array] = loop.create_future()
        self.arrived = loop.time()
        self.n_taken = 0
        self._done: list[Array] = []
        self._n_done = 0

    @property
    def taken(self) -> Sequence[Sentence]:
        """Sentences that are in the current batch."""
        return self.sentences[self._n_done : self.n_taken]

    @property
    def n_left(self) -> int:
        """Number of sentences that are not in a batch yet."""
        return len(self.sentences) - self.n_taken

    @property
    def n_tokens_left(self) -> int:
        """Tokens of the sentences that are not in a batch yet."""
        return sum(map(len, self.sentences[self.n_taken :]))

    def accept(self, vectors: Array) -> None:
        """Store the vectors of the taken sentences, [taken, output_dim]."""
        self._done.append(vectors)
        self._n_done = self.n_taken
        if not self.n_left and not self.vectors.done():
            self.vectors.set_result(np.concatenate(self._done))

    def refuse(self, error: Exception) -> None:
        """Fail the caller with an error of the encoding."""
        if not self.vectors.done():
            self.vectors.set_exception(error)
