# SPDX-License-Identifier: Apache-2.0
"""Embedding a text equals embedding its sentences one by one."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from spaces.recipe import Precision
from spaces.student import EncoderSpec, StaticSpec, StudentSpec, Switch
from trainers.modules.build import build
from trainers.modules.embed import embed, embed_tokens

SPEC = StudentSpec(
    vocabulary_size=50,
    output_dim=16,
    encoder=EncoderSpec(
        n_layers=2,
        width=16,
        n_heads=2,
        head_width=8,
        feed_forward=Switch(n_experts=3, units=8, capacity_factor=0.5),
        max_tokens=20,
    ),
    static=StaticSpec(),
)


@dataclass(frozen=True)
class Text:
    tokens: np.ndarray
    offsets: np.ndarray


def text_of(lengths: list[int]) -> Text:
    tokens = np.random.default_rng(0).integers(0, 50, size=sum(lengths)).astype(np.int32)
    return Text(tokens=tokens, offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


@pytest.mark.parametrize("batch_tokens", [1, 24, 4096])
def test_a_text_equals_its_sentences_alone(batch_tokens: int) -> None:
    student, text = build(SPEC, seed=0).train(), text_of([5, 1, 20, 5, 7, 3, 20])
    vectors = embed(student, text, batch_tokens=batch_tokens)
    assert student.training, "the mode is given back"
    student.eval()
    for i, vector in enumerate(vectors):
        sentence = text.tokens[text.offsets[i] : text.offsets[i + 1]].astype(np.int64)
        with torch.inference_mode():
            alone = student(torch.from_numpy(sentence[None])).embeddings[0].numpy()
        np.testing.assert_allclose(vector, alone, atol=1e-6)


def test_bfloat16_hardly_moves_a_vector() -> None:
    student, text = build(SPEC, seed=0), text_of([5, 1, 20])
    exact = embed(student, text)
    quick = embed(student, text, precision=Precision.BFLOAT16)
    assert quick.dtype == np.float32
    assert (exact * quick).sum(axis=1).min() > 0.999


def test_no_sentence_and_an_empty_sentence_are_refused() -> None:
    student, text = build(SPEC, seed=0), text_of([5, 0, 2])
    with pytest.raises(ValueError, match="number 1 has none"):
        embed(student, text)
    with pytest.raises(ValueError, match="no sentence to embed"):
        embed_tokens(student, text.tokens[:0], np.zeros(1, dtype=np.int64))
