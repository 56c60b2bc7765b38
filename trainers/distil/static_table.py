# SPDX-License-Identifier: Apache-2.0
"""The trained static table: one vector per token whose mean imitates the teacher's sentence vector.

It is a reference (a student of depth 0 that costs seconds) and what every static path inherits. It starts from the
teacher's vector of each token alone, rare tokens weighing more (smooth inverse frequency, Arora et al. 2017), and is
distilled like any student.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from spaces.recipe import Precision, RecipeSpec
from spaces.student import StaticSpec, StudentSpec
from trainers.distil.loop import Distillation, DistillationData
from trainers.inherit.length import match_length
from trainers.modules.build import student_from_weights, weights_of
from trainers.modules.embed import embed_tokens
from trainers.teacher.load import Teacher

FREQUENCY_SMOOTHING = 1e-3  # a in a / (a + p), as in the source
STATIC_RECIPE = RecipeSpec(batch_tokens=4096, table_learning_rate=5e-3, average_decay=0.98)
MOST_TOKENS_BETWEEN_LOOKS = 50_000  # at the clock
LENGTH_SENTENCES = 1024  # on which the table gets the teacher's length
DECAY_SHARE = 0.5  # of the whole, over which the learning rate falls


def static_spec(teacher: StudentSpec) -> StudentSpec:
    """The student of depth 0 with a full table, for a teacher's vocabulary and dimension."""
    return StudentSpec(
        vocabulary_size=teacher.vocabulary_size,
        output_dim=teacher.output_dim,
        static=StaticSpec(),
        normalise=teacher.normalise,
    )


def train_static_table(
    teacher: Teacher,
    data: DistillationData,
    *,
    n_tokens: int,
    seconds: float | None = None,
    seed: int,
    device: torch.device,
) -> NDArray[np.float32]:
    """Float32 [vocabulary, output_dim], distilled for `n_tokens`, or instead for about so many `seconds` of wall time.

    The teacher's look at each token comes before that. Without `seconds` equal data and seeds give equal tables.
    """
    weights = frequency_weights(data.token_ids, teacher.spec.vocabulary_size)
    table = token_vectors(teacher, device=device) * weights[:, None]
    student = student_from_weights(static_spec(teacher.spec), {"static.tokens": table}, device=device)
    n = LENGTH_SENTENCES
    match_length(student, data.token_ids, data.offsets[: n + 1], data.targets.embeddings[:n])
    distillation = Distillation(student, STATIC_RECIPE, data, seed=seed)
    start = time.perf_counter()
    done, end, step = 0.0, n_tokens, min(MOST_TOKENS_BETWEEN_LOOKS, -(-n_tokens // 20))
    while done < 1.0:
        distillation.advance(distillation.n_tokens + step)
        done = distillation.n_tokens / n_tokens
        if seconds is not None:
            done = (time.perf_counter() - start) / seconds
            end = int(distillation.n_tokens / done) + 1
        if distillation.decay is None and 1.0 - DECAY_SHARE <= done < 1.0:
            distillation.begin_decay(distillation.n_tokens, end)
    return weights_of(distillation.averaged())["static.tokens"]


def token_vectors(teacher: Teacher, *, device: torch.device) -> NDArray[np.float32]:
    """[vocabulary, output_dim]: the teacher's vector of every token alone between its special tokens."""
    special = Tokenizer.from_str(teacher.tokenizer_json).encode("").ids
    before, after = special[: len(special) // 2], special[len(special) // 2 :]
    n_tokens = teacher.spec.vocabulary_size
    tokens = np.tile(np.array([*before, 0, *after], dtype=np.int32), (n_tokens, 1))
    tokens[:, len(before)] = np.arange(n_tokens)
    offsets = np.arange(n_tokens + 1, dtype=np.int64) * tokens.shape[1]
    return embed_tokens(teacher.student(device=device), tokens.reshape(-1), offsets, precision=Precision.BFLOAT16)


def frequency_weights(token_ids: NDArray[np.int32], vocabulary_size: int) -> NDArray[np.float32]:
    """[vocabulary]: a / (a + p) for each token's share p of a text; tokens that never occur weigh 1."""
    counts = np.bincount(token_ids, minlength=vocabulary_size)
    share = counts / max(1, counts.sum())
    weights: NDArray[np.float32] = (FREQUENCY_SMOOTHING / (FREQUENCY_SMOOTHING + share)).astype(np.float32)
    return weights
