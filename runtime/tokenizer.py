# SPDX-License-Identifier: Apache-2.0
"""Sentences to token ids, by a tokenizer.json of Hugging Face's `tokenizers`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from spaces.errors import UserError
from spaces.student import StudentSpec

SLICE = 2048  # sentences tokenised at once: bounds the memory of intermediate encodings


class SentenceTokenizer:
    """Turns sentences into token ids, special tokens included, cut to `max_tokens`."""

    def __init__(self, tokenizer: str | Path, *, max_tokens: int | None) -> None:
        """`tokenizer` is the path of a tokenizer.json, or its text as a str; `max_tokens` None never cuts.

        Raises ValueError if it is not a tokenizer, or if the special tokens alone exceed `max_tokens`.
        """
        self._origin = str(tokenizer) if isinstance(tokenizer, Path) else "the given text"
        with self._naming_the_file():
            text = tokenizer.read_text(encoding="utf-8") if isinstance(tokenizer, Path) else tokenizer
            self._tokenizer = Tokenizer.from_str(text)
        n_special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_tokens is not None and max_tokens <= n_special:
            raise UserError(f"{self._origin}: max_tokens must exceed the {n_special} special tokens, got {max_tokens}")
        self._tokenizer.no_padding()
        if max_tokens is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(max_tokens)
        self.max_tokens = max_tokens
        with self._naming_the_file():
            self._tokenizer.encode("")  # some damage shows only now

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def check_fits(self, spec: StudentSpec) -> None:
        """Raise ValueError if it has more tokens than the student's table has rows."""
        if self.vocabulary_size > spec.vocabulary_size:
            raise UserError(
                f"{self._origin}: the tokenizer has {self.vocabulary_size} tokens but the student's table "
                f"{spec.vocabulary_size} rows; use the tokenizer that the student was distilled with"
            )

    def encode(self, sentences: Sequence[str]) -> list[NDArray[np.int32]]:
        """The token ids of each sentence, in order; an empty sentence holds its special tokens only."""
        if isinstance(sentences, str):
            raise TypeError("give a list of sentences, not one str; wrap it in a list")
        token_ids = []
        for start in range(0, len(sentences), SLICE):
            with self._naming_the_file():
                encodings = self._tokenizer.encode_batch_fast(list(sentences[start : start + SLICE]))
                token_ids += [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        return token_ids

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        """Turns errors of tokenizers (plain Exception, or PanicException, a BaseException) into ValueError."""
        try:
            yield
        except BaseException as error:
            kinds = UnicodeDecodeError | OverflowError  # no text; a token id beyond 32 bits
            if isinstance(error, kinds) or type(error) is Exception or type(error).__name__ == "PanicException":
                raise UserError(
                    f"{self._origin} is not a tokenizer that works: {error}; export or download the student again"
                ) from None
            raise
