# SPDX-License-Identifier: Apache-2.0
"""The teacher's outputs on a text, computed once and kept in memory-mapped float16 files.

A cache is a folder named by everything that decides its values: the teacher's weights and spec (pooling, projection,
normalisation), its tokenizer, the text and its order, the length of sentences and the precision. It holds plain arrays,
one row per sentence (`embeddings`) or per token (`queries`, `keys`, `values` of the last layer, `hidden`), and
`progress.json`, which is replaced after a chunk's rows are on the disk. So a build that was killed goes on from its
last chunk, a longer request extends a shorter one, and outputs that were not asked for before are added.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.atomic import write_json
from spaces.errors import UserError
from spaces.recipe import Precision
from trainers.teacher.forward import TeacherForward
from trainers.teacher.load import Teacher
from trainers.text.tokenised_text import TokenisedText, tokenizer_sha256

FORMAT = 1
PROGRESS_FILE = "progress.json"
KINDS = {"embeddings": ("embeddings",), "relations": ("queries", "keys", "values"), "hidden": ("hidden",)}
CHUNK_SENTENCES = 4096  # some seconds of a small teacher: the work that a kill may lose
CHUNK_BYTES = 64 * 2**20
FIRST_CHUNK_SENTENCES = 512  # with a deadline, until the rate is known
MIN_CHUNK_SENTENCES = 64
FREE_SHARE = 1.05  # free disk space that is asked for, relative to what will be written

Array = NDArray[np.float16]
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """A teacher's outputs for a text's sentences and tokens, in the text's order: float16, possibly mapped."""

    embeddings: Array
    """[sentences, output_dim]: the sentence vectors."""
    queries: Array | None = None
    """[tokens, attention_width] of the last layer, heads side by side; None: not cached."""
    keys: Array | None = None
    """As the queries."""
    values: Array | None = None
    """As the queries."""
    hidden: Array | None = None
    """[tokens, width]: the last hidden states; None: not cached."""
    n_heads: int | None = None
    """Attention heads of the queries, keys and values; None if there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePlan:
    """Size of a build, before it starts."""

    path: Path
    """The cache's folder."""
    n_sentences: int
    """Sentences that the cache will hold."""
    n_cached: int
    """Sentences that it holds already, with every output asked for."""
    n_bytes: int
    """Bytes to be written; 0 if there is nothing to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCache:
    """A teacher's outputs for the first `n_sentences` of a text."""

    path: Path
    """The cache's folder."""
    key: str
    """Digest of everything that decides its values."""
    n_sentences: int
    """Sentences; fewer than were asked for if the deadline came first."""
    n_tokens: int
    """Tokens of these sentences."""
    targets: Targets
    """The outputs that were asked for, mapped from the files."""

    @property
    def embeddings(self) -> Array:
        """Float16 [n_sentences, output_dim]."""
        return self.targets.embeddings


def build_cache(
    teacher: Teacher,
    text: TokenisedText,
    *,
    cache_dir: Path,
    device: torch.device,
    n_sentences: int | None = None,
    needs_relations: bool = False,
    needs_hidden: bool = False,
    precision: Precision = Precision.BFLOAT16,
    deadline: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    announce: Callable[[CachePlan], None] | None = None,
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> TeacherCache:
    """The teacher's outputs for the first `n_sentences` of a text (None: all).

    What is missing is computed on the device, batches side by side on a thread for every CPU. `deadline` is a time of
    `time.monotonic()` by which it returns with what it has, at the end of a chunk.
    `announce` is told once, before anything is written, what will be (None: it is logged). `progress(done, total)`
    counts sentences. Raises ValueError if the text is not in the teacher's tokens or the disk lacks space.
    """
    _require_same_tokens(teacher, text)
    n = len(text) if n_sentences is None else min(n_sentences, len(text))
    if n < 1:
        raise UserError(f"a cache needs at least one sentence, got {n}; raise n_sentences")
    kinds = ["embeddings", *(["relations"] if needs_relations else []), *(["hidden"] if needs_hidden else [])]
    key = cache_key(teacher, text, precision=precision)
    files = _Files(cache_dir / key[:32], teacher=teacher, offsets=text.offsets)
    files.path.mkdir(parents=True, exist_ok=True)

    done = {kind: files.done[kind] for kind in kinds}
    plan = CachePlan(
        path=files.path,
        n_sentences=n,
        n_cached=min(n, *done.values()),
        n_bytes=sum(files.n_bytes(kind, done[kind], n) for kind in kinds),
    )
    (announce or _log)(plan)
    if plan.n_bytes:
        _require_disk_space(plan, free=free_bytes(files.path))
        _fill(
            files,
            teacher,
            text.take(n),
            kinds,
            precision=precision,
            device=device,
            deadline=deadline,
            progress=progress,
        )
    return files.open(kinds, min(n, *(files.done[kind] for kind in kinds)), key=key)


def cache_key(teacher: Teacher, text: TokenisedText, *, precision: Precision) -> str:
    """Digest of everything that decides a cache's values."""
    fields = {
        "format": FORMAT,
        "weights": teacher.weights_sha256,
        "spec": teacher.spec.to_json(),
        "tokenizer": text.tokenizer_sha256,
        "text": text.key,
        "max_tokens": text.max_tokens,
        "precision": precision,
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def combine(vectors: Sequence[NDArray[np.floating]], *, weights: Sequence[float]) -> NDArray[np.floating]:
    """The weighted mean of several teachers' vectors of the same sentences, each of length 1 before and the mean after.

    One teacher's vectors are returned as they are. The result has the first's type and as many rows as the shortest.
    Raises ValueError if the dimensions differ.
    """
    if len(vectors) != len(weights) or not vectors:
        raise UserError(f"every teacher needs one weight, got {len(vectors)} teachers and {len(weights)} weights")
    dimensions = [array.shape[1] for array in vectors]
    if len(set(dimensions)) > 1:
        raise UserError(f"teachers must have sentence vectors of one dimension, got {dimensions}; leave one out")
    if min(weights) < 0 or not sum(weights) > 0:
        raise UserError(f"weights of teachers must not be negative, and their sum not 0, got {list(weights)}")
    if len(vectors) == 1:
        return vectors[0]
    combined = np.empty((min(map(len, vectors)), dimensions[0]), dtype=vectors[0].dtype)
    for start in range(0, len(combined), CHUNK_SENTENCES):
        rows = slice(start, min(start + CHUNK_SENTENCES, len(combined)))
        mean = sum(
            weight * _unit(array[rows].astype(np.float32)) for weight, array in zip(weights, vectors, strict=True)
        )
        combined[rows] = _unit(np.asarray(mean))
    return combined


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit


class _Files:
    """The files of one cache and how far each kind of output is written."""

    def __init__(self, path: Path, *, teacher: Teacher, offsets: NDArray[np.int64]) -> None:
        encoder = teacher.spec.encoder
        assert encoder is not None, "a teacher has layers"
        self.path = path
        self.offsets = offsets
        self.n_heads = encoder.n_heads
        self.columns = {"embeddings": teacher.spec.output_dim, "hidden": encoder.width} | dict.fromkeys(
            KINDS["relations"], encoder.attention_width
        )
        self.done = dict.fromkeys(KINDS, 0)
        progress = path / PROGRESS_FILE
        if progress.is_file():
            self.done |= json.loads(progress.read_text(encoding="utf-8"))["sentences"]
        for kind, sentences in self.done.items():
            for name in KINDS[kind]:
                file, n_bytes = self._file(name), self._offset(name, sentences)
                if n_bytes and (not file.is_file() or file.stat().st_size < n_bytes):
                    raise UserError(f"{file} is shorter than the {n_bytes} bytes written to it; remove {path}")

    def n_bytes(self, kind: str, start: int, end: int) -> int:
        """Bytes of a kind's rows from one sentence to another; 0 if the end comes first."""
        return max(0, sum(self._offset(name, end) - self._offset(name, start) for name in KINDS[kind]))

    def write(self, kind: str, start: int, outputs: dict[str, Array]) -> None:
        """Write a kind's rows, the first of them that of a sentence, through to the disk."""
        for name in KINDS[kind]:
            descriptor = os.open(self._file(name), os.O_RDWR | os.O_CREAT, 0o666)
            with os.fdopen(descriptor, "r+b") as file:
                file.seek(self._offset(name, start))
                np.ascontiguousarray(outputs[name]).tofile(file)
                file.flush()
                os.fsync(file.fileno())

    def finish(self, kinds: Iterable[str], end: int) -> None:
        """Note that the kinds are written up to a sentence."""
        self.done |= dict.fromkeys(kinds, end)
        write_json(self.path / PROGRESS_FILE, {"format": FORMAT, "sentences": self.done}, durable=True)

    def open(self, kinds: Iterable[str], n_sentences: int, *, key: str) -> TeacherCache:
        """The first sentences of the kinds, mapped."""
        names = {name for kind in kinds for name in KINDS[kind]}
        arrays = {name: self._map(name, n_sentences) if name in names else None for name in self.columns}
        embeddings = arrays.pop("embeddings")
        assert embeddings is not None
        n_heads = self.n_heads if arrays["queries"] is not None else None
        return TeacherCache(
            path=self.path,
            key=key,
            n_sentences=n_sentences,
            n_tokens=int(self.offsets[n_sentences]),
            targets=Targets(embeddings=embeddings, **arrays, n_heads=n_heads),
        )

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.f16"

    def _offset(self, name: str, sentence: int) -> int:
        """Where a sentence's rows begin in a file, in bytes."""
        row = sentence if name == "embeddings" else int(self.offsets[min(sentence, len(self.offsets) - 1)])
        return 2 * self.columns[name] * row

    def _map(self, name: str, n_sentences: int) -> Array:
        shape = (n_sentences if name == "embeddings" else int(self.offsets[n_sentences]), self.columns[name])
        return np.memmap(self._file(name), np.float16, "r", shape=shape) if n_sentences else np.empty(shape, np.float16)


def _fill(
    files: _Files,
    teacher: Teacher,
    text: TokenisedText,
    kinds: Sequence[str],
    *,
    precision: Precision,
    device: torch.device,
    deadline: float | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Run the teacher where a kind is missing, chunk by chunk."""
    n = len(text)
    largest = CHUNK_BYTES * n // max(1, sum(files.n_bytes(kind, 0, n) for kind in kinds))
    largest = max(MIN_CHUNK_SENTENCES, min(CHUNK_SENTENCES, largest))
    began, first = time.monotonic(), min(files.done[kind] for kind in kinds)
    with TeacherForward(teacher, precision=precision, device=device) as forward:
        while (start := min(files.done[kind] for kind in kinds)) < n:
            size = largest
            if deadline is not None:
                now = time.monotonic()
                rate = (start - first) / max(now - began, 1e-9)
                size = min(largest, int(rate * (deadline - now)) if start > first else FIRST_CHUNK_SENTENCES)
                if start > first and (now >= deadline or size < min(MIN_CHUNK_SENTENCES, n - start)):
                    return
            missing = [kind for kind in kinds if files.done[kind] == start]
            end = min(start + size, n, *(files.done[kind] for kind in kinds if files.done[kind] > start))
            outputs = forward.run(
                text.tokens,
                text.offsets,
                slice(start, end),
                needs_relations="relations" in missing,
                needs_hidden="hidden" in missing,
                advance=partial(_report, progress, start, n),
            )
            for kind in missing:
                files.write(kind, start, outputs)
            files.finish(missing, end)


def _report(progress: Callable[[int, int], None] | None, start: int, total: int, done: int) -> None:
    if progress is not None:
        progress(start + done, total)


def _require_same_tokens(teacher: Teacher, text: TokenisedText) -> None:
    if text.tokenizer_sha256 != tokenizer_sha256(teacher.tokenizer_json):
        raise UserError(
            f"a teacher's text must be in its own tokens, and this one is not in those of {teacher.name}; prepare the "
            "corpus with the teacher's tokenizer_json"
        )
    if text.max_tokens > teacher.max_tokens:
        raise UserError(
            f"sentences must be cut to the {teacher.max_tokens} tokens of the teacher {teacher.name}, got "
            f"{text.max_tokens}; lower max_tokens of the corpus"
        )


def _require_disk_space(plan: CachePlan, *, free: int) -> None:
    needed = int(plan.n_bytes * FREE_SHARE)
    if needed > free:
        raise UserError(
            f"the teacher's cache of {plan.n_sentences} sentences needs {needed / 1e9:.3g} GB, and the disk of "
            f"{plan.path} has {free / 1e9:.3g} GB free; free some, put the store on another disk, lower "
            "the corpus limit, or leave out the losses on relations and hidden states"
        )


def _log(plan: CachePlan) -> None:
    _logger.info(
        "teacher cache %s: %d sentences, %d cached, %.1f MB to write",
        plan.path,
        plan.n_sentences,
        plan.n_cached,
        plan.n_bytes / 1e6,
    )
