# SPDX-License-Identifier: Apache-2.0
"""A tiny student folder with real parts: a tokenizer of a few words, and one encoder layer beside a static path."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from runtime import Encoder, SentenceTokenizer, load, write_folder
from runtime.folder import expected_tensors
from runtime.layers import Array
from runtime.sentence_encoder import Sentence
from spaces.student import Dense, EncoderSpec, StaticSpec, StudentSpec

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "the", "cat", "sat", "on", "a", "mat", "and", "slept"]
MAX_TOKENS = 10
SPEC = StudentSpec(
    vocabulary_size=len(WORDS),
    output_dim=16,
    encoder=EncoderSpec(
        n_layers=1, width=16, n_heads=2, head_width=8, feed_forward=Dense(units=20), max_tokens=MAX_TOKENS
    ),
    static=StaticSpec(),
)
ATOL = 2e-6  # of padding: a sentence alone and in a batch (tests/runtime/test_encoder.py)


def write_tiny_student(folder: Path) -> Path:
    """The folder of a student with random weights."""
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    generator = np.random.default_rng(7)
    weights = {name: generator.standard_normal(shape) for name, shape in expected_tensors(SPEC).items()}
    return write_folder(folder, SPEC, weights=weights, tokenizer_json=tokenizer.to_str())


def random_sentences(n: int, *, seed: int) -> list[str]:
    """Sentences of 1 to 8 words."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS[4:], size=generator.integers(1, 9))) for _ in range(n)]


def tokenised(encoder: Encoder, texts: Sequence[str]) -> list[Sentence]:
    """Texts as the batcher takes them."""
    assert encoder.tokenizer is not None
    ids = encoder.tokenizer.encode(texts)
    return [Sentence(text=text, token_ids=token_ids) for text, token_ids in zip(texts, ids, strict=True)]


class TextEngine:
    """An engine that takes text only, can be held back at a gate, and fails at the word `poison`.

    It runs the NumPy student, and remembers its batches.
    """

    def __init__(self, folder: Path) -> None:
        self._encoder = load(folder)
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    @property
    def spec(self) -> StudentSpec:
        return self._encoder.spec

    @property
    def tokenizer(self) -> SentenceTokenizer | None:
        return self._encoder.tokenizer

    def encode(self, sentences: Sequence[str], *, n_threads: int = 1) -> Array:
        self.batches.append(list(sentences))
        assert self.gate.wait(timeout=60)
        if "poison" in sentences:
            raise MemoryError("poison")
        return self._encoder.encode(sentences)
