# SPDX-License-Identifier: Apache-2.0
"""From sources of text to one file of tokenised sentences, split into train and held-out by hash.

Every sentence is filtered, kept once and named by its SHA-256. The order of both splits is the order of the hashes,
so that it does not depend on the sources' order and any prefix is a uniform sample. A sentence is held out when its
hash falls into the first share of all hashes, the smallest of HELD_OUT_SHARES in which enough sentences fall;
the held-out text is exactly as many of them as asked for, and none of that share is ever trained on.
Text passes through unnamed files on the cache's disk, so memory holds 24 bytes a sentence.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runtime.atomic import atomic_file
from runtime.tokenizer import SentenceTokenizer
from spaces.errors import UserError
from spaces.study.spec import CorpusSpec, SourceKind
from trainers.text.filter import SourceCounts, TextFilter, nothing_left
from trainers.text.sources import source_identity
from trainers.text.tokenised_text import (
    SCHEMA,
    SPLITS,
    TokenisedText,
    from_batch,
    open_splits,
    record_batch,
    tokenizer_sha256,
)

FORMAT = 1
HELD_OUT_SHARES = (0.05, 0.1, 0.2, 0.5)
CHUNK = 8192  # sentences tokenised between two reports of progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A prepared corpus: two splits that share no sentence."""

    key: str
    """Digest of everything that decides the file: sources, filters, tokenizer, lengths, format."""
    path: Path
    """The Arrow file."""
    train: TokenisedText
    """What students are trained on, in hash order."""
    held_out: TokenisedText
    """What fidelity is measured on, in hash order."""
    counts: dict[str, int]
    """How many texts were read, dropped by each filter, repeated, kept and held out."""
    sources: tuple[SourceCounts, ...]
    """How many texts each source has, and how many of them each filter dropped."""


def prepare_corpus(
    spec: CorpusSpec,
    *,
    tokenizer_json: str,
    max_tokens: int,
    cache_dir: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Corpus:
    """The corpus of a spec for one tokenizer: opened if `cache_dir` has it, made otherwise.

    `max_tokens` cuts sentences (special tokens included); it and not the spec's is what counts, as a teacher may
    allow fewer. `progress(done, total)` is told the sentences tokenised. Raises ValueError or FileNotFoundError
    with the remedy if a source cannot be read or too little text is left.
    """
    key = corpus_key(spec, tokenizer_json=tokenizer_json, max_tokens=max_tokens)
    options: dict[str, Any] = {"tokenizer_sha256": tokenizer_sha256(tokenizer_json), "max_tokens": max_tokens}
    for name in (key, _revised(key)):
        if _has_counts(_path(cache_dir, name)):
            return _open(_path(cache_dir, name), key=name, **options)
    tokenizer = SentenceTokenizer(tokenizer_json, max_tokens=max_tokens)
    cache_dir.mkdir(parents=True, exist_ok=True)
    key = _write(cache_dir, spec, tokenizer=tokenizer, key=key, progress=progress or (lambda done, total: None))
    return _open(_path(cache_dir, key), key=key, **options)


def check_text(spec: CorpusSpec, *, most: int = 20_000) -> tuple[SourceCounts, ...]:
    """Raises what `prepare_corpus` would, as far as the first `most` texts of every file tell; writes nothing.

    A .tsv file is read whole, for its quotation marks (`trainers.text.tables`). Too few sentences are found out when
    every source is a file with no more texts than that. Returns the counts of those texts, for each file.
    """
    keep = TextFilter(spec)
    files = [source for source in spec.sources if source.kind is SourceKind.FILE]
    with tempfile.TemporaryFile() as spool:
        digests, _ = _spool((text for source in files for text in keep.texts_of(source, most=most)), spool)
    if len(files) == len(spec.sources) and max(counts.read for counts in keep.sources) < most:
        if not len(digests):
            raise UserError(nothing_left(spec, keep.totals))
        _split(*_distinct(digests), held_out=spec.held_out, limit=spec.limit)
    return tuple(keep.sources)


def corpus_key(spec: CorpusSpec, *, tokenizer_json: str, max_tokens: int) -> str:
    """The digest that names a corpus; reads small files whole, to see whether they changed."""
    fields = asdict(spec) | {"sources": sorted(source_identity(source) for source in spec.sources)}
    fields |= {"max_tokens": max_tokens, "tokenizer": tokenizer_sha256(tokenizer_json), "format": FORMAT}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _path(folder: Path, key: str) -> Path:
    return folder / f"{key[:32]}.arrow"


def _revised(key: str) -> str:
    """The key of a corpus that earlier versions would have read otherwise from the same files (`is_revised`)."""
    return hashlib.sha256(f"{key} revised".encode()).hexdigest()


def _has_counts(path: Path) -> bool:
    """Whether there is a corpus file with counts by source; one without may have to be read otherwise now."""
    return path.exists() and b"sources" in open_splits(path)[1]


def _open(path: Path, *, key: str, tokenizer_sha256: str, max_tokens: int) -> Corpus:
    batches, metadata = open_splits(path)
    train, held_out = (
        from_batch(batches[name], key=f"{key}-{name}", tokenizer_sha256=tokenizer_sha256, max_tokens=max_tokens)
        for name in SPLITS
    )
    return Corpus(
        key=key,
        path=path,
        train=train,
        held_out=held_out,
        counts=json.loads(metadata[b"counts"]),
        sources=tuple(map(SourceCounts.from_json, json.loads(metadata[b"sources"]))),
    )


def _write(
    folder: Path, spec: CorpusSpec, *, tokenizer: SentenceTokenizer, key: str, progress: Callable[[int, int], None]
) -> str:
    """Writes the corpus; returns its key, which is another one if earlier versions read these files otherwise."""
    keep = TextFilter(spec)
    with ExitStack() as files:
        spool = files.enter_context(tempfile.TemporaryFile(dir=folder))
        digests, offsets = _spool((text for source in spec.sources for text in keep.texts_of(source)), spool)
        if not len(digests):
            raise UserError(nothing_left(spec, keep.totals))
        distinct, high = _distinct(digests)
        splits = _split(distinct, high, held_out=spec.held_out, limit=spec.limit)
        text = np.memmap(spool, dtype=np.uint8, mode="r")
        total = sum(map(len, splits))
        counts = {**keep.totals, "repeated": len(digests) - len(distinct), "distinct": len(distinct)}
        counts |= dict(zip(SPLITS, map(len, splits), strict=True))
        done = 0

        def advance(n: int) -> None:
            nonlocal done
            done += n
            progress(done, total)

        batches = []
        for rows in splits:
            spools = [files.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(2)]
            batches.append(_tokenise(rows, text, offsets, tokenizer, *spools, advance=advance))
        if keep.is_revised:
            key = _revised(key)
        sources = [counts_of_one.to_json() for counts_of_one in keep.sources]
        metadata = {"key": key, "counts": json.dumps(counts), "sources": json.dumps(sources)}
        _write_file(_path(folder, key), batches, metadata=metadata)
    return key


def _write_file(path: Path, batches: list[pa.RecordBatch], *, metadata: dict[str, str]) -> None:
    """The Arrow file, there whole or not at all."""
    with (
        atomic_file(path, durable=True) as file,
        pa.ipc.new_file(file, SCHEMA.with_metadata(metadata)) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch)


def _spool(texts: Iterator[str], spool: IO[bytes]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Write the texts to a file; their SHA-256's first 16 bytes as two big-endian numbers, and the file's offsets."""
    digests, lengths = bytearray(), array("q")
    for text in texts:
        encoded = text.encode("utf-8", "replace")  # lone surrogates of JSON become question marks
        digests += hashlib.sha256(encoded).digest()[:16]
        lengths.append(len(encoded))
        spool.write(encoded)
    spool.flush()
    return np.frombuffer(digests, dtype=[("high", ">u8"), ("low", ">u8")]), _offsets(lengths)


def _distinct(digests: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """The rows of the distinct digests in the digests' order, and the first half of each digest."""
    high, low = digests["high"].astype(np.uint64), digests["low"].astype(np.uint64)
    order = np.lexsort((low, high))
    high, low = high[order], low[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return order[first], high[first]


def _split(
    rows: NDArray[np.int64], high: NDArray[np.uint64], *, held_out: int, limit: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of the train and of the held-out sentences; `rows` and `high` are in hash order."""
    n_share = 0
    for share in HELD_OUT_SHARES:
        n_share = int(np.searchsorted(high, np.uint64(int(share * 2**64))))
        if held_out <= n_share < len(rows):
            n_train = None if limit is None else limit - held_out
            return rows[n_share:][:n_train], rows[:held_out]
    raise UserError(
        f"held_out must be less than about half of the corpus: {held_out} of {len(rows)} distinct sentences; lower "
        f"held_out to {n_share} or less, add text, or loosen the filters"
    )


def _tokenise(
    rows: NDArray[np.int64],
    text: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    tokenizer: SentenceTokenizer,
    text_spool: IO[bytes],
    token_spool: IO[bytes],
    *,
    advance: Callable[[int], None],
) -> pa.RecordBatch:
    """The record batch of these rows, over the two files that are filled here."""
    text_lengths, token_lengths = array("q"), array("q")
    for start in range(0, len(rows), CHUNK):
        encoded = [text[offsets[row] : offsets[row + 1]].tobytes() for row in rows[start : start + CHUNK]]
        token_ids = tokenizer.encode([sentence.decode() for sentence in encoded])
        text_spool.write(b"".join(encoded))
        token_spool.write(np.concatenate(token_ids).tobytes())
        text_lengths.extend(map(len, encoded))
        token_lengths.extend(map(len, token_ids))
        advance(len(encoded))
    text_spool.flush()
    token_spool.flush()
    if 0 in token_lengths:
        sentence = text[offsets[rows[token_lengths.index(0)]] :][: text_lengths[token_lengths.index(0)]]
        raise UserError(
            f"a sentence must have tokens, and the tokenizer finds none in {sentence.tobytes().decode()!r}; use a "
            "teacher whose tokenizer adds special tokens"
        )
    return record_batch(
        text_bytes=np.memmap(text_spool, dtype=np.uint8, mode="r"),
        text_offsets=_offsets(text_lengths),
        tokens=np.memmap(token_spool, dtype=np.int32, mode="r"),
        token_offsets=_offsets(token_lengths),
    )


def _offsets(lengths: array[int]) -> NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
