# SPDX-License-Identifier: Apache-2.0
"""No tokenizer.json makes much more text of a text than there was, and no real one is refused."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
import textwrap
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from runtime import SentenceTokenizer
from runtime.text_growth import TextGrowth, TextGrowthError
from tests.runtime.test_tokenizer import tokenizer

ROOT = Path(__file__).resolve().parents[2]
CHARACTERS = [chr(i) for i in range(sys.maxunicode + 1) if not 0xD800 <= i < 0xE000]


def sequence(*normalizers: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(normalizers)}


def in_sequence(*pre_tokenizers: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(pre_tokenizers)}


def replace(pattern: str, content: str, *, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def charsmap(**replacements: str) -> dict[str, Any]:
    """A character map whose trie finds nothing: the bound depends on the replacements alone."""
    trie = bytes(4 * 256)
    strings = b"".join(text.encode() + b"\0" for text in replacements.values())
    blob = struct.pack("<I", len(trie)) + trie + strings
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(blob).decode()}


def byte_level(*, prefix: bool = False, regex: bool = False) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def metaspace(replacement: str = "\u2581") -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": replacement, "prepend_scheme": "always", "split": True}


BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
BERT |= {"strip_accents": True, "lowercase": True}

DOUBLE = replace("a", "aa")
DOUBLE_WITHOUT_TYPE = {"pattern": {"String": "a"}, "content": "aa"}  # tokenizers reads this too
MULTIPLIERS: dict[str, dict[str, Any]] = {
    "doubled 30 times": {"normalizer": sequence(*[DOUBLE] * 30)},
    "without types": {"normalizer": {"normalizers": [DOUBLE_WITHOUT_TYPE] * 30}},
    "nested": {"normalizer": sequence(sequence(*[DOUBLE] * 15), sequence(sequence(*[DOUBLE] * 15)))},
    "two letters": {"normalizer": sequence(*[replace("xy", "xyxy"), replace("yx", "yxyx")] * 20)},
    "between all characters": {"normalizer": sequence(*[replace("", "b")] * 30)},
    "by an expression": {"normalizer": sequence(*[replace("", "b", kind="Regex")] * 30)},
    "any character": {"normalizer": sequence(*[replace(".", "..", kind="Regex")] * 30)},
    "one long replacement": {"normalizer": replace("a", "b" * 400_000)},
    "prepended": {"normalizer": {"type": "Prepend", "prepend": "b" * 400_000}},
    "prepended and doubled": {"normalizer": sequence({"type": "Prepend", "prepend": "a"}, *[DOUBLE] * 30)},
    "prepended many times": {"normalizer": sequence(*[{"type": "Prepend", "prepend": "b" * 100_000}] * 30)},
    "a long character map": {"normalizer": charsmap(a="b" * 400_000)},
    "an added token": {
        "normalizer": sequence(*[replace("q", "qq")] * 30),
        "added_tokens": [
            {"id": 3, "content": "q", "single_word": False, "lstrip": False, "rstrip": False}
            | {"normalized": True, "special": False}
        ],
    },
    "bytes of bytes": {"pre_tokenizer": in_sequence(*[byte_level()] * 30)},
    "bytes of bytes, normalised": {"normalizer": sequence(*[{"type": "ByteLevel"}] * 30)},
    "a space before every piece": {"pre_tokenizer": in_sequence(*[byte_level(prefix=True, regex=True)] * 30)},
}


@pytest.mark.parametrize("kind", list(MULTIPLIERS))
def test_a_tokenizer_that_multiplies_text_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="the given text has normalizers that multiply text: the tokenizer may make"):
        SentenceTokenizer(tokenizer(**MULTIPLIERS[kind]), max_tokens=None)


def test_a_text_that_would_be_multiplied_is_refused_when_it_comes() -> None:
    parts = {"normalizer": sequence(replace("x{3}", "q", kind="Regex"), *[replace("[qx]", "qq", kind="Regex")] * 17)}
    made = SentenceTokenizer(tokenizer(**parts), max_tokens=8)
    assert [len(ids) for ids in made.encode(["a b", "", "a" * 100_000])] == [2, 0, 1]
    with pytest.raises(TextGrowthError, match=r"at most 2097152 bytes of a text .* of one of 100 characters"):
        made.encode(["a b", "x" * 100])


def test_the_memory_of_encoding_many_texts_is_bounded() -> None:
    """2,000 texts that each become 10,000 bytes: tokenised at once they take a gigabyte."""
    code = """
        import resource
        from runtime import SentenceTokenizer
        from tests.runtime.test_text_growth import replace
        from tests.runtime.test_tokenizer import tokenizer
        made = SentenceTokenizer(tokenizer(normalizer=replace("a", "a" * 1000)), max_tokens=8)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert len(made.encode(["a" * 10] * 2000)) == 2000
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) < 400_000  # kilobytes


# Real tokenizers: their texts, and long ones, are taken

REAL: dict[str, dict[str, Any]] = {
    "none": {},
    "bert": {"normalizer": BERT, "pre_tokenizer": {"type": "BertPreTokenizer"}},
    "roberta": {"pre_tokenizer": byte_level(prefix=True, regex=True)},
    "clip": {"normalizer": sequence({"type": "NFC"}, replace(r"\s+", " ", kind="Regex"), {"type": "Lowercase"})},
    "xlm-roberta": {
        "normalizer": sequence(charsmap(a="b" * 33), replace(" {2,}", " ", kind="Regex")),
        "pre_tokenizer": in_sequence({"type": "WhitespaceSplit"}, metaspace()),
    },
    "albert": {
        "normalizer": sequence(
            replace("``", '"'),
            replace("''", '"'),
            {"type": "NFKD"},
            {"type": "StripAccents"},
            {"type": "Lowercase"},
            charsmap(a="b" * 33),
            replace(" {2,}", " ", kind="Regex"),
        ),
        "pre_tokenizer": in_sequence({"type": "WhitespaceSplit"}, metaspace()),
    },
    "llama": {"normalizer": sequence({"type": "Prepend", "prepend": "\u2581"}, replace(" ", "\u2581"))},
}
TEXTS = ["", "a", "the a 1 " * 8000, "\ufdfa" * 1000, "\u4e00" * 65536, "\u0390\u1e9e" * 9999, "\U0001d160" * 9999]


@pytest.mark.parametrize("name", list(REAL))
def test_no_real_tokenizer_is_refused(name: str) -> None:
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]], "byte_fallback": False}
    parts = {"pre_tokenizer": None, "model": model} | REAL[name]
    made = SentenceTokenizer(tokenizer(**parts), max_tokens=16)
    assert len(made.encode(TEXTS)) == len(TEXTS)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_unicode_forms_grow_no_more_than_is_assumed(form: Any) -> None:
    growth = max(len(unicodedata.normalize(form, c).encode()) / len(c.encode()) for c in CHARACTERS)
    assert growth == TextGrowth(normalizer={"type": form}, pre_tokenizer=None).check("a")


PARTS = [DOUBLE, replace("b", "\u2581"), replace("ab", ""), replace("", "c"), replace("a*", "bc", kind="Regex")]
PARTS += [{"type": "Prepend", "prepend": "a\u00e9"}, {"type": "Strip", "strip_left": True, "strip_right": True}, BERT]
PARTS += [{"type": kind} for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel")]
PRE_PARTS = [byte_level(), byte_level(prefix=True), byte_level(prefix=True, regex=True), metaspace(), metaspace("x")]
PRE_PARTS += [{"type": "Whitespace"}, {"type": "Digits", "individual_digits": True}, {"type": "BertPreTokenizer"}]


@given(
    normalizer=st.lists(st.sampled_from(PARTS), max_size=5),
    pre_tokenizer=st.lists(st.sampled_from(PRE_PARTS), max_size=4),
    text=st.text(st.sampled_from("abAB \u0390\ufdfa\u4e00\U0001d160\u00e91"), max_size=12),
)
def test_the_bound_holds_for_every_chain(
    normalizer: list[dict[str, Any]], pre_tokenizer: list[dict[str, Any]], text: str
) -> None:
    parts = {"normalizer": sequence(*normalizer), "pre_tokenizer": in_sequence(*pre_tokenizer)}
    try:
        bound = TextGrowth(**parts).check(text)
        made = Tokenizer.from_str(tokenizer(**parts))
        assert isinstance(made.normalizer, normalizers.Normalizer)
        assert isinstance(made.pre_tokenizer, pre_tokenizers.PreTokenizer)
        pieces = made.pre_tokenizer.pre_tokenize_str(made.normalizer.normalize_str(text))
    except TextGrowthError:
        return
    except BaseException as error:  # some chains are too much for tokenizers itself
        assume(type(error).__name__ != "PanicException")
        raise
    assert sum(len(piece.encode()) for piece, _ in pieces) <= bound
