# SPDX-License-Identifier: Apache-2.0
"""A bound on how much longer a tokenizer makes a text before it finds tokens in it.

The normalizers and pre-tokenizers of a tokenizer.json replace text by other text. Thirty in a chain that each replace
`a` by `aa` make a billion bytes of one, and tokenizers takes 40 bytes of memory or more for each. So every text is
checked first: against the product of what every step may do at most, in UTF-8 bytes, which costs nothing; where that is
too much, against what the steps do to this text, one after the other.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from tokenizers import Tokenizer

from spaces.errors import UserError

MOST_BYTES = 2.0 * 1024 * 1024
"""Bytes that any text may become."""
MOST_BYTES_OF_EXAMPLES = 64.0 * 1024
"""Bytes that a text of a few characters may become."""
MOST_GROWTH = 16.0  # compatibility forms make 11 bytes of one, lower case 1.5: `ﷺ`, `Ⱥ`
"""Times its length that a longer text may become."""

STEP = 4.0
"""Times as much that the bound of one step may be, which is seldom reached: a character map makes 1 to 33 of one."""

_EXAMPLES = ("a", "\u00e9")
_FORMS = {"NFD": 3.0, "NFC": 3.0, "NFKD": 11.0, "NFKC": 11.0, "Lowercase": 1.5}  # tests/runtime/test_text_growth.py
_CHINESE = 5 / 3  # BertNormalizer puts a space on both sides of a character of three bytes
_BYTE_LEVEL = 2.0  # a character of at most two bytes for every byte
_UNCHANGED = frozenset(
    [
        "Strip",
        "StripAccents",
        "Nmt",
        "BertPreTokenizer",
        "CharDelimiterSplit",
        "Whitespace",
        "WhitespaceSplit",
        "Split",
        "Punctuation",
        "Digits",
        "UnicodeScripts",
        "FixedLength",
    ]
)
_UNKNOWN = 32.0  # for what a later version of tokenizers may add

Part: TypeAlias = Mapping[str, Any]
"""A normalizer or pre-tokenizer, as tokenizers writes it."""


class TextGrowthError(UserError):
    """A text becomes too long."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A text of n bytes becomes one of at most `factor * n + added` bytes."""

    factor: float = 1.0
    added: float = 0.0

    def bound(self, n_bytes: float) -> float:
        return self.factor * n_bytes + self.added


class TextGrowth:
    """How many bytes the texts of one tokenizer become."""

    def __init__(self, *, normalizer: object, pre_tokenizer: object) -> None:
        """Both are those of a tokenizer.json, whatever it holds. Raises what tokenizers raises for them."""
        written = json.loads(_alone(normalizer=normalizer, pre_tokenizer=pre_tokenizer).to_str())  # with all types
        self._normalizers = list(_parts(written["normalizer"]))
        self._steps = [_normalizer_step(part) for part in self._normalizers]
        self._splits = [_pre_tokenizer_step(part, i) for i, part in enumerate(_parts(written["pre_tokenizer"]))]

    def check(self, text: str, *, most_bytes: float = MOST_BYTES) -> float:
        """A number of bytes that the text does not exceed. Raises TextGrowthError if it becomes longer than any may."""
        n_bytes = float(len(text) if text.isascii() else 4 * len(text))
        most = max(most_bytes, MOST_GROWTH * n_bytes)
        bound = _chain(self._steps + self._splits, n_bytes)
        if bound <= most:
            return bound
        changed, n_bytes = text, float(len(text.encode()))
        for normalizer, step in zip(self._loaded, self._steps, strict=True):
            _require(step.bound(n_bytes), STEP * most, text)
            changed = normalizer.normalize_str(changed)
            n_bytes = _require(float(len(changed.encode())), most, text)
        return _require(_chain(self._splits, n_bytes), most, text)

    @cached_property
    def _loaded(self) -> list[Any]:
        """The normalizers; most tokenizers and texts need none of them here."""
        return [_alone(normalizer=part).normalizer for part in self._normalizers]

    def check_examples(self, texts: list[str]) -> None:
        """`check` of the texts and of those that the tokenizer replaces; raises TextGrowthError as it does."""
        replaced = [part["pattern"]["String"] for part in self._normalizers if "String" in part.get("pattern", {})]
        for text in (*_EXAMPLES, *replaced, *texts):
            self.check(text, most_bytes=MOST_BYTES_OF_EXAMPLES)


_EMPTY: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {}, "unk_token": ""},
}


def _alone(**parts: object) -> Tokenizer:
    """A tokenizer of these parts and of no tokens."""
    return Tokenizer.from_str(json.dumps(_EMPTY | parts))


def _require(n_bytes: float, most: float, text: str) -> float:
    if n_bytes > most:
        raise TextGrowthError(
            f"the tokenizer may make at most {most:.0f} bytes of a text before it finds tokens, and would make "
            f"{n_bytes:.3g} of one of {len(text)} characters; send a shorter one"
        )
    return n_bytes


def _chain(steps: list[_Step], n_bytes: float) -> float:
    for step in steps:
        n_bytes = step.bound(n_bytes)
    return n_bytes


def _parts(part: Part | None) -> Iterator[Part]:
    """The parts of a sequence, and of sequences in it."""
    if part is not None and part["type"] == "Sequence":
        for inner in part.get("normalizers", part.get("pretokenizers", ())):
            yield from _parts(inner)
    elif part is not None:
        yield part


def _normalizer_step(part: Part) -> _Step:
    kind = part["type"]
    if kind == "Replace":
        n_content = float(len(part["content"].encode()))
        n_pattern = len(part["pattern"].get("String", "").encode())
        if n_pattern:
            return _Step(max(1.0, n_content / n_pattern))
        return _Step(1.0 + n_content, n_content)  # a regular expression may match between any two characters
    if kind == "Prepend":
        return _Step(1.0, float(len(part["prepend"].encode())))
    if kind == "BertNormalizer":
        return _Step(_CHINESE * _FORMS["NFD"] * _FORMS["Lowercase"])
    if kind == "Precompiled":
        return _Step(_longest_replacement(part["precompiled_charsmap"]))
    if kind == "ByteLevel":
        return _Step(_BYTE_LEVEL)
    return _Step(_FORMS.get(kind, 1.0 if kind in _UNCHANGED else _UNKNOWN))


def _pre_tokenizer_step(part: Part, place: int) -> _Step:
    """The step of a pre-tokenizer; after the first, there may be a piece of text for every byte."""
    kind = part["type"]
    if kind == "Metaspace":
        n_replacement = float(len(part["replacement"].encode()))
        return _Step(n_replacement * (2.0 if place else 1.0), n_replacement)
    if kind == "ByteLevel":
        return _Step(_BYTE_LEVEL + (1.0 if place else 0.0), 2.0)  # with a space before a piece
    return _Step(1.0 if kind in _UNCHANGED else _UNKNOWN)


def _longest_replacement(charsmap: str) -> float:
    """Bytes of the longest text by which a character map of sentencepiece replaces something.

    It is the size of a trie (4 bytes, little endian), the trie, and the replacements, each ended by a zero.
    """
    blob = base64.b64decode(charsmap)
    replacements = blob[4 + int.from_bytes(blob[:4], "little") :]
    return max(1.0, *(float(len(replacement)) for replacement in replacements.split(b"\0")))
