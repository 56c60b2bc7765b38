# SPDX-License-Identifier: Apache-2.0
"""Sentences to token ids, by a tokenizer.json of Hugging Face's `tokenizers`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from runtime.text_growth import TextGrowth, TextGrowthError
from spaces.errors import UserError
from spaces.student import StudentSpec

_PROBES = ("a", "the", "1", "\u4e00")  # texts in which any tokenizer finds a token
MOST_SPECIAL_TOKENS = 64  # BERT has 2
MOST_WORD_CHARACTERS = 1000  # the time for a word of n characters grows faster than n squared: half a minute for 8,000
REMEDY = "export or download the student again"
SLICE = 2048  # sentences tokenised at once: bounds the memory of intermediate encodings
SLICE_BYTES = 4 * 1024 * 1024  # of their normalised text, for the same reason


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIdForm:
    """What the token ids of a sentence look like: the tokens that exist, and the special tokens around a sentence."""

    known: frozenset[int]
    """The ids of all tokens; there may be gaps."""
    prefix: tuple[int, ...]
    """Special tokens before a sentence."""
    suffix: tuple[int, ...]
    """Special tokens after a sentence."""

    def first_unknown(self, ids: Sequence[int]) -> int | None:
        """The first id that no token has, or None."""
        return next((i for i in ids if i not in self.known), None)

    def encloses(self, ids: Sequence[int]) -> bool:
        """Whether the ids begin and end with the special tokens of a sentence."""
        n_before, n_after = len(self.prefix), len(self.suffix)
        return (
            len(ids) >= n_before + n_after
            and tuple(ids[:n_before]) == self.prefix
            and tuple(ids[len(ids) - n_after :]) == self.suffix
        )


class SentenceTokenizer:
    """Turns sentences into token ids, special tokens included, cut to `max_tokens`."""

    def __init__(self, tokenizer: str | Path, *, max_tokens: int | None) -> None:
        """`tokenizer` is the path of a tokenizer.json, or its text as a str; `max_tokens` None never cuts.

        Raises ValueError if it is not a tokenizer, or if the special tokens alone exceed `max_tokens`.
        """
        self._origin = str(tokenizer) if isinstance(tokenizer, Path) else "the given text"
        with self._naming_the_file():
            text = tokenizer.read_text(encoding="utf-8") if isinstance(tokenizer, Path) else tokenizer
            self._growth = self._text_growth(text)
            self._tokenizer = Tokenizer.from_str(text)
        n_special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if n_special > MOST_SPECIAL_TOKENS:
            raise UserError(
                f"{self._origin}: at most {MOST_SPECIAL_TOKENS} special tokens are put around a sentence, "
                f"got {n_special}; {REMEDY}"
            )
        if max_tokens is not None and max_tokens <= n_special:
            raise UserError(f"{self._origin}: max_tokens must exceed the {n_special} special tokens, got {max_tokens}")
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        with self._naming_the_file():
            self._tokenizer.encode("")  # some damage shows only now
            self.token_ids = self._token_id_form(n_special)
        if max_tokens is not None:
            self._tokenizer.enable_truncation(max_tokens)
        self.max_tokens = max_tokens

    def check_fits(self, spec: StudentSpec) -> None:
        """Raise ValueError if it has token ids for which the student's table has no row."""
        n_rows = max(self.token_ids.known, default=-1) + 1
        if n_rows > spec.vocabulary_size:
            raise UserError(
                f"{self._origin}: the tokenizer's ids need {n_rows} rows but the student's table has "
                f"{spec.vocabulary_size}; use the tokenizer that the student was distilled with"
            )

    def encode(self, sentences: Sequence[str]) -> list[NDArray[np.int32]]:
        """The token ids of each sentence, in order; an empty sentence holds its special tokens only."""
        if isinstance(sentences, str):
            raise TypeError("give a list of sentences, not one str; wrap it in a list")
        token_ids: list[NDArray[np.int32]] = []
        for batch in self._slices(sentences):
            with self._naming_the_file():
                encodings = self._tokenizer.encode_batch_fast(batch)
                token_ids += [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        return token_ids

    def _slices(self, sentences: Sequence[str]) -> Iterator[list[str]]:
        """The sentences, in parts whose normalised text is short enough. Raises TextGrowthError for one that is not."""
        batch: list[str] = []
        n_bytes = 0.0
        for sentence in sentences:
            with self._naming_the_file():
                n_more = self._growth.check(sentence)
            if batch and (len(batch) == SLICE or n_bytes + n_more > SLICE_BYTES):
                yield batch
                batch, n_bytes = [], 0.0
            batch.append(sentence)
            n_bytes += n_more
        if batch:
            yield batch

    def _text_growth(self, text: str) -> TextGrowth:
        """The bound on texts; those of the added tokens are checked here, because loading normalises them."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self._origin} is not a tokenizer, which is JSON: {error}; {REMEDY}") from None
        if not isinstance(document, dict):
            raise UserError(f"{self._origin} is not a tokenizer, which is a JSON object, got {text[:40]!r}; {REMEDY}")
        self._require_fast(document.get("model"))
        added = document.get("added_tokens")
        tokens = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
        contents = [token["content"] for token in tokens if isinstance(token.get("content"), str)]
        try:
            growth = TextGrowth(normalizer=document.get("normalizer"), pre_tokenizer=document.get("pre_tokenizer"))
            growth.check_examples(contents)
        except TextGrowthError as error:
            raise UserError(
                f"{self._origin} has normalizers that multiply text: {error}; use the tokenizer that the student was "
                "distilled with"
            ) from None
        return growth

    def _require_fast(self, model: object) -> None:
        """Raise UserError for a WordPiece model that would take hours for one long word."""
        most = model.get("max_input_chars_per_word") if isinstance(model, dict) else None
        if isinstance(most, int) and most > MOST_WORD_CHARACTERS:
            raise UserError(
                f"{self._origin}: max_input_chars_per_word must be at most {MOST_WORD_CHARACTERS}, got {most}; "
                "set it to 100, as BERT has it"
            )

    def _token_id_form(self, n_special: int) -> TokenIdForm:
        """The form of the ids that `encode` gives.

        Raises ValueError if the post-processor adds ids that no token has, or repeats the sentence: then the ids would
        be more than `max_tokens`, because a sentence is cut before.
        """
        known = frozenset(self._tokenizer.get_vocab(with_added_tokens=True).values())
        prefix: tuple[int, ...] = tuple(self._tokenizer.encode("").ids)
        suffix: tuple[int, ...] = ()
        for text in _PROBES:
            n_tokens = self._n_tokens(text)
            if not n_tokens:
                continue
            encoding = self._tokenizer.encode(text)
            if len(encoding.ids) != n_tokens + n_special:
                raise UserError(
                    f"{self._origin}: a post-processor must give a sentence once, with its {n_special} special tokens, "
                    f"but it makes {len(encoding.ids)} of the {n_tokens} of {text!r}; {REMEDY}"
                )
            of_text = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
            prefix, suffix = tuple(encoding.ids[: of_text[0]]), tuple(encoding.ids[of_text[-1] + 1 :])
            break
        form = TokenIdForm(known=known, prefix=prefix, suffix=suffix)
        unknown = form.first_unknown(prefix + suffix)
        if unknown is not None:
            raise UserError(
                f"{self._origin}: special tokens must be tokens of the vocabulary, and none has the id {unknown}; "
                f"{REMEDY}"
            )
        return form

    def _n_tokens(self, text: str) -> int:
        """Number of tokens of a text before post-processing; 0 if the tokenizer has none for it."""
        post_processor = self._tokenizer.post_processor
        self._tokenizer.post_processor = None
        try:
            return len(self._tokenizer.encode(text).ids)
        except Exception:  # none for unknown text either
            return 0
        finally:
            if post_processor is not None:
                self._tokenizer.post_processor = post_processor

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        """Turns errors of tokenizers (plain Exception, or PanicException, a BaseException) into ValueError."""
        try:
            yield
        except BaseException as error:
            kinds = UnicodeDecodeError | OverflowError  # no text; a token id beyond 32 bits
            if isinstance(error, kinds) or type(error) is Exception or type(error).__name__ == "PanicException":
                raise UserError(f"{self._origin} is not a tokenizer that works: {error}; {REMEDY}") from None
            raise
