# SPDX-License-Identifier: Apache-2.0
"""Sentences and their token ids, flat: what a corpus file holds, memory-mapped, and what training batches read.

A corpus file is one Arrow IPC file with two record batches, `train` and `held_out`, of the columns `text`
(large_string) and `token_ids` (large_list<int32>). Each batch is contiguous, so its token ids and offsets are
NumPy arrays over the mapped file and cost no memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runtime.tokenizer import SentenceTokenizer
from spaces.errors import UserError

SCHEMA = pa.schema([("text", pa.large_string()), ("token_ids", pa.large_list(pa.int32()))])
SPLITS = ("train", "held_out")


class ArrowTexts(Sequence[str]):
    """A read-only sequence of str over an Arrow column; only what is asked for is decoded."""

    def __init__(self, column: pa.LargeStringArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            texts: list[str] = self._column[index].to_pylist()
            return texts
        return str(self._column[index].as_py())  # out of range: IndexError

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 4096):
            yield from self[start : start + 4096]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenisedText:
    """Some sentences in a fixed order, as text and as token ids (special tokens included)."""

    texts: Sequence[str]
    """The sentences; decoded when read."""
    tokens: NDArray[np.int32]
    """Int32 [n_tokens]: the token ids of all sentences, one after another; read-only when mapped."""
    offsets: NDArray[np.int64]
    """Int64 [n + 1]: sentence i is `tokens[offsets[i]:offsets[i + 1]]`; starts at 0."""
    key: str
    """Names the text, its order and its tokenisation, not its length: a prefix has the key of the whole."""
    tokenizer_sha256: str
    """Digest of the tokenizer.json that made the ids."""
    max_tokens: int
    """Tokens at which sentences were cut."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_tokens(self) -> int:
        """Tokens of all sentences."""
        return int(self.offsets[-1])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Int64 [n]: tokens of each sentence."""
        return np.diff(self.offsets)

    def take(self, n: int) -> TokenisedText:
        """The first n sentences (all, if there are fewer): of a corpus a uniform sample, as its order is by hash."""
        if n < 0:
            raise UserError(f"a number of sentences must not be negative, got {n}")
        n = min(n, len(self))
        return replace(self, texts=self.texts[:n], tokens=self.tokens[: self.offsets[n]], offsets=self.offsets[: n + 1])


def tokenise(texts: Sequence[str], *, tokenizer_json: str, max_tokens: int, key: str | None = None) -> TokenisedText:
    """These sentences tokenised in memory, in their order; `key` None: a digest of the sentences themselves."""
    texts = list(texts)
    encoded = SentenceTokenizer(tokenizer_json, max_tokens=max_tokens).encode(texts)
    sha256 = tokenizer_sha256(tokenizer_json)
    if key is None:
        key = hashlib.sha256("\0".join([sha256, str(max_tokens), *texts]).encode("utf-8", "surrogatepass")).hexdigest()
    return TokenisedText(
        texts=texts,
        tokens=np.concatenate(encoded) if encoded else np.empty(0, np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(ids) for ids in encoded], dtype=np.int64)]).astype(np.int64),
        key=key,
        tokenizer_sha256=sha256,
        max_tokens=max_tokens,
    )


def tokenizer_sha256(tokenizer_json: str) -> str:
    """Digest that names a tokenizer in keys."""
    return hashlib.sha256(tokenizer_json.encode()).hexdigest()


def record_batch(
    *, text_bytes: Any, text_offsets: NDArray[np.int64], tokens: Any, token_offsets: NDArray[np.int64]
) -> pa.RecordBatch:
    """One split as a record batch over buffers (bytes or mapped files) that are not copied."""
    n = len(text_offsets) - 1
    text = pa.Array.from_buffers(
        pa.large_string(), n, [None, pa.py_buffer(text_offsets), pa.py_buffer(text_bytes)], null_count=0
    )
    values = pa.Array.from_buffers(pa.int32(), int(token_offsets[-1]), [None, pa.py_buffer(tokens)], null_count=0)
    token_ids = pa.Array.from_buffers(
        pa.large_list(pa.int32()), n, [None, pa.py_buffer(token_offsets)], null_count=0, children=[values]
    )
    return pa.RecordBatch.from_arrays([text, token_ids], schema=SCHEMA)


def open_splits(path: Path) -> tuple[dict[str, pa.RecordBatch], dict[bytes, bytes]]:
    """The record batches by split, and the metadata, of a corpus file. Raises ValueError if it is not one."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if not reader.schema.equals(SCHEMA) or reader.num_record_batches != len(SPLITS):
            raise UserError(f"{path} is not a corpus file of this version: {reader.schema}; remove it")
        batches = {name: reader.get_batch(index) for index, name in enumerate(SPLITS)}
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is damaged: {error}; remove it") from None
    return batches, reader.schema.metadata or {}


def from_batch(batch: pa.RecordBatch, *, key: str, tokenizer_sha256: str, max_tokens: int) -> TokenisedText:
    """The split in a record batch, over its memory."""
    token_ids = batch.column("token_ids")
    return TokenisedText(
        texts=ArrowTexts(batch.column("text")),
        tokens=token_ids.values.to_numpy(zero_copy_only=True),
        offsets=token_ids.offsets.to_numpy(zero_copy_only=True),
        key=key,
        tokenizer_sha256=tokenizer_sha256,
        max_tokens=max_tokens,
    )
