# SPDX-License-Identifier: Apache-2.0
"""Sentence vectors of tokenised text by a torch student, on its device, nearly without padding."""

from __future__ import annotations

import copy
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from spaces.recipe import Precision
from trainers.modules.device import device_of, to_array, to_tensor
from trainers.modules.side_by_side import map_side_by_side
from trainers.modules.student import Student
from trainers.text.batches import cut_by_tokens, make_batch


@runtime_checkable
class Tokenised(Protocol):
    """Tokenised sentences: sentence i is `tokens[offsets[i]:offsets[i + 1]]`."""

    @property
    def tokens(self) -> NDArray[np.int32]:
        """The token ids of all sentences, one after the other."""

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each sentence begins; one more entry than sentences."""


def embed(
    student: Student,
    text: Tokenised,
    *,
    batch_tokens: int = 4096,
    precision: Precision = Precision.FLOAT32,
) -> NDArray[np.float32]:
    """One vector per sentence, in order: [sentences, output_dim]. See `embed_tokens`."""
    return embed_tokens(student, text.tokens, text.offsets, batch_tokens=batch_tokens, precision=precision)


def embed_tokens(
    student: Student,
    tokens: NDArray[np.int32],
    offsets: NDArray[np.int64],
    *,
    batch_tokens: int = 4096,
    precision: Precision = Precision.FLOAT32,
) -> NDArray[np.float32]:
    """One vector per sentence, in order, in evaluation mode: [len(offsets) - 1, output_dim].

    Sentences of like length form batches of at most `batch_tokens` tokens (at least one sentence). bfloat16 is
    several times faster where the machine has matrix units for it and changes a cosine by less than 0.001.
    """
    lengths = np.diff(offsets)
    if len(lengths) == 0:
        raise ValueError("there is no sentence to embed; give at least one")
    if lengths.min() < 1:
        raise ValueError(f"every sentence must have a token, but number {int(lengths.argmin())} has none; leave it out")
    if precision is Precision.BFLOAT16:
        student = copy.deepcopy(student).to(torch.bfloat16)  # twice as fast as autocast, which casts again and again
    was_training = student.training
    student.eval()
    device = device_of(student)
    batches = cut_by_tokens(np.argsort(lengths, kind="stable"), lengths, batch_tokens=batch_tokens)

    def run(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        batch = make_batch(rows, tokens, offsets)
        mask = None if batch.mask is None else to_tensor(batch.mask, device)
        with torch.inference_mode():
            return rows, to_array(student(to_tensor(batch.token_ids, device), mask).embeddings.float())

    try:
        parts = map_side_by_side(run, batches, n_threads=torch.get_num_threads())
    finally:
        student.train(was_training)
    vectors = np.empty((len(lengths), parts[0][1].shape[1]), dtype=np.float32)
    for rows, part in parts:
        vectors[rows] = part
    return vectors
