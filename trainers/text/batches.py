# SPDX-License-Identifier: Apache-2.0
"""Training batches: sentences of like length together, so that hardly a token of padding is computed.

An epoch's sentences are ordered by length, ties shuffled, and cut into batches of a given number of
tokens; the batches come in shuffled order. Everything follows from a seed and the epoch's number, so a
position in the stream is two integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some sentences, as a rectangle of token ids."""

    sentences: np.ndarray
    """Int64 [batch]: which sentences of the text."""
    token_ids: np.ndarray
    """Int64 [batch, tokens], 0 where the mask is false."""
    mask: np.ndarray | None
    """Bool [batch, tokens]: true for tokens; None if all are."""

    @property
    def n_tokens(self) -> int:
        """Tokens that are not padding."""
        return int(self.token_ids.size if self.mask is None else self.mask.sum())


def plan_epoch(lengths: np.ndarray, *, batch_tokens: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The sentences of each batch of an epoch, in training order; every sentence is in exactly one batch."""
    generator = np.random.default_rng((seed, epoch))
    order = np.lexsort((generator.permutation(len(lengths)), lengths))
    batches = cut_by_tokens(order, lengths, batch_tokens=batch_tokens)
    return [batches[i] for i in generator.permutation(len(batches))]


def cut_by_tokens(order: np.ndarray, lengths: np.ndarray, *, batch_tokens: int) -> list[np.ndarray]:
    """Cut length-ordered sentences into runs of at most `batch_tokens` with padding (at least one sentence each)."""
    sorted_lengths = lengths[order]
    cuts, start = [], 0
    while start < len(order):
        end = min(start + max(1, batch_tokens // int(sorted_lengths[start])), len(order))
        while end - start > 1 and (end - start) * int(sorted_lengths[end - 1]) > batch_tokens:
            end = start + max(1, batch_tokens // int(sorted_lengths[end - 1]))
        cuts.append(order[start:end])
        start = end
    return cuts


def make_batch(sentences: np.ndarray, token_ids: np.ndarray, offsets: np.ndarray) -> Batch:
    """The rectangle of these sentences, from a flat array of tokens and the offsets of its sentences."""
    starts = offsets[sentences]
    lengths = offsets[sentences + 1] - starts
    column = np.arange(int(lengths.max()))
    if int(lengths.min()) == len(column):
        return Batch(sentences=sentences, token_ids=token_ids[starts[:, None] + column].astype(np.int64), mask=None)
    mask = column < lengths[:, None]
    positions = np.where(mask, starts[:, None] + column, 0)
    return Batch(sentences=sentences, token_ids=np.where(mask, token_ids[positions], 0).astype(np.int64), mask=mask)


def token_rows(batch: Batch, offsets: np.ndarray) -> np.ndarray:
    """Int64 [batch, tokens]: where each token of the batch stands in the flat text (padding: the sentence's first)."""
    starts = offsets[batch.sentences][:, None]
    column = np.arange(batch.token_ids.shape[1])
    rows: np.ndarray = starts + (column if batch.mask is None else np.where(batch.mask, column, 0))
    return rows


def stream(
    lengths: np.ndarray, *, batch_tokens: int, seed: int, epoch: int = 0, position: int = 0
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Endless (epoch, position, sentences) from a given place on."""
    while True:
        plan = plan_epoch(lengths, batch_tokens=batch_tokens, seed=seed, epoch=epoch)
        for i in range(position, len(plan)):
            yield epoch, i, plan[i]
        epoch, position = epoch + 1, 0
