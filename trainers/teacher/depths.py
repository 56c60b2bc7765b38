# SPDX-License-Identifier: Apache-2.0
"""A teacher's sentence vectors, and those of the teacher cut to its first k layers, all from one pass over a text."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from trainers.modules.attention import padding_bias
from trainers.modules.device import device_of, to_array, to_tensor
from trainers.modules.side_by_side import map_side_by_side
from trainers.modules.student import Student
from trainers.text.batches import cut_by_tokens, make_batch

BATCH_TOKENS = 2048


def embed_at_every_depth(
    student: Student, tokens: NDArray[np.int32], offsets: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Float32 [layers, sentences, output_dim]: entry k - 1 is what the student cut to its first k layers returns.

    The student must be an encoder without Switch layers and without a static path, as every teacher is. Whole batches
    run side by side, one thread each.
    """
    if student.embeddings is None or student.static is not None:
        raise ValueError("only an encoder without a static path can be cut to its first layers, got another student")
    lengths = np.diff(offsets)
    order = np.argsort(lengths, kind="stable")
    batches = cut_by_tokens(order, lengths, batch_tokens=BATCH_TOKENS)
    dim = student.embeddings.norm.normalized_shape[0] if student.projection is None else student.projection.out_features
    vectors = np.empty((len(student.layers), len(lengths), dim), dtype=np.float32)

    def run(sentences: NDArray[np.int64]) -> None:
        _run_batch(student.eval(), sentences, tokens, offsets, vectors)

    map_side_by_side(run, batches, n_threads=torch.get_num_threads())
    return vectors


@torch.inference_mode()
def _run_batch(
    student: Student,
    sentences: NDArray[np.int64],
    tokens: NDArray[np.int32],
    offsets: NDArray[np.int64],
    vectors: NDArray[np.float32],
) -> None:
    batch = make_batch(sentences, tokens, offsets)
    device = device_of(student)
    mask = None if batch.mask is None else to_tensor(batch.mask, device)
    assert student.embeddings is not None
    x = student.embeddings(to_tensor(batch.token_ids, device), student.embeddings.tokens)
    bias = None if mask is None else padding_bias(mask, x.dtype)
    for k, layer in enumerate(student.layers):
        x, _ = layer.attention(x, bias)  # type: ignore[operator]
        x = layer.feed_forward(x)  # type: ignore[operator]
        sentence = student._project(student._pool(x, mask))
        vectors[k, sentences] = to_array(functional.normalize(sentence, dim=-1) if student.normalise else sentence)
