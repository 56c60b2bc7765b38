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

from runtime import Engine, SentenceTokenizer, load, write_folder
from runtime.folder import expected_tensors
from runtime.layers import Array
from runtime.service.sentence_encoder import Sentence
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


def tokenised(encoder: Engine, texts: Sequence[str]) -> list[Sentence]:
    """Texts as the batcher takes them."""
    assert encoder.tokenizer is not None
    return encoder.tokenizer.encode(texts)


class GatedEngine:
    """The tiny student, held back while its gate is shut; fails at the sentence `poison`, remembers its batches."""

    def __init__(self, folder: Path) -> None:
        self._encoder = load(folder)
        assert self._encoder.tokenizer is not None
        self._poison = self._encoder.tokenizer.encode(["poison"])[0].tolist()
        self.batches: list[list[list[int]]] = []
        self.gate = threading.Event()
        self.gate.set()

    @property
    def spec(self) -> StudentSpec:
        return self._encoder.spec

    @property
    def tokenizer(self) -> SentenceTokenizer | None:
        return self._encoder.tokenizer

    def encode_token_ids(self, token_ids: Sequence[Sentence], *, n_threads: int = 1) -> Array:
        self.batches.append([ids.tolist() for ids in token_ids])
        assert self.gate.wait(timeout=10)
        if self._poison in self.batches[-1]:
            raise MemoryError("poison")
        return self._encoder.encode_token_ids(token_ids, n_threads=n_threads)
