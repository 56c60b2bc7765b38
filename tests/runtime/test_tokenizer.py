# SPDX-License-Identifier: Apache-2.0
"""Own token ids are told from foreign ones, and a tokenizer.json that is not a tokenizer of sentences is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime import SentenceTokenizer

VOCABULARY = {"[UNK]": 0, "a": 1, "[CLS]": 2, "[SEP]": 3, "the": 4, "1": 5, "b": 9}  # ids have a gap
SENTENCES = ["", "a", "the a 1", "b b [CLS] zebra", "1"]


def template(single: str, **special: list[int]) -> dict[str, Any]:
    """A TemplateProcessing in which `single` is written as in tokenizers: `[CLS] $A [SEP]`."""
    pieces = [
        {"Sequence": {"id": "A", "type_id": 0}} if piece == "$A" else {"SpecialToken": {"id": piece, "type_id": 0}}
        for piece in single.split()
    ]
    pair = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    names = {piece: special.get(piece.strip("[]"), [VOCABULARY.get(piece, 0)]) for piece in single.split()}
    tokens = {
        name: {"id": name, "ids": ids, "tokens": [name] * len(ids)} for name, ids in names.items() if name != "$A"
    }
    return {"type": "TemplateProcessing", "single": pieces, "pair": pair, "special_tokens": tokens}


def tokenizer(**parts: Any) -> str:
    """A tokenizer.json of words, with other parts."""
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "[UNK]"},
    }
    return json.dumps(document | parts)


POST_PROCESSORS = {
    "none": (None, (), ()),
    "template": (template("[CLS] $A [SEP]"), (2,), (3,)),
    "suffix": (template("$A [SEP]"), (), (3,)),
    "prefix": (template("[CLS] [CLS] $A"), (2, 2), ()),
    "several ids": (template("[CLS] $A [SEP]", CLS=[2, 9], SEP=[3, 3]), (2, 9), (3, 3)),
    "bert": ({"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}, (2,), (3,)),
    "roberta": (
        {"type": "RobertaProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
        | {"trim_offsets": True, "add_prefix_space": False},
        (2,),
        (3,),
    ),
    "byte level": ({"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}, (), ()),
}


@pytest.mark.parametrize("max_tokens", [None, 5])
@pytest.mark.parametrize("kind", list(POST_PROCESSORS))
def test_own_token_ids_are_told_from_those_without_special_tokens(kind: str, max_tokens: int | None) -> None:
    post_processor, prefix, suffix = POST_PROCESSORS[kind]
    made = SentenceTokenizer(tokenizer(post_processor=post_processor), max_tokens=max_tokens)
    form = made.token_ids
    assert (form.prefix, form.suffix, form.known) == (prefix, suffix, set(VOCABULARY.values()))
    for ids in made.encode(SENTENCES):
        assert form.first_unknown(ids.tolist()) is None
        assert form.encloses(ids.tolist())
        if prefix or suffix:
            assert not form.encloses(ids.tolist()[len(prefix) : len(ids) - len(suffix)])
    assert [form.first_unknown([i]) for i in (-1, 0, 5, 6, 8, 9, 10, 2**40)] == [-1, None, None, 6, 8, None, 10, 2**40]


def test_a_tokenizer_without_a_token_for_unknown_text_has_a_form() -> None:
    model = {"type": "WordLevel", "vocab": {"b": 0, "[SEP]": 3}, "unk_token": "[UNK]"}
    form = SentenceTokenizer(tokenizer(model=model, post_processor=template("$A [SEP]")), max_tokens=None).token_ids
    assert form.first_unknown([0, 3]) is None
    assert not form.encloses([0])


WORD_PIECE = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": VOCABULARY}


def test_a_word_piece_model_that_would_take_hours_is_refused() -> None:
    made = SentenceTokenizer(tokenizer(model=WORD_PIECE | {"max_input_chars_per_word": 1000}), max_tokens=None)
    assert [len(ids) for ids in made.encode(["a", "a" * 60_000])] == [1, 1]
    for model in (WORD_PIECE, {key: value for key, value in WORD_PIECE.items() if key != "type"}):
        with pytest.raises(ValueError, match="max_input_chars_per_word must be at most 1000, got 1001; set it to 100"):
            SentenceTokenizer(tokenizer(model=model | {"max_input_chars_per_word": 1001}), max_tokens=None)


@pytest.mark.parametrize(
    ("post_processor", "message"),
    [
        (template("[CLS] $A $A [SEP]"), "a sentence once, with its 2 special tokens, but it makes 4 of the 1 of 'a'"),
        (template(" ".join(["$A"] * 100)), "it makes 100"),
        (template("[CLS]"), "it makes 1 of the 1"),
        (template("[CLS] $A", CLS=[2] * 65), "at most 64 special tokens are put around a sentence, got 65"),
        (template("[CLS] $A", CLS=[77]), "none has the id 77"),
        (template("$A [SEP]", SEP=[6]), "none has the id 6"),
    ],
)
def test_a_post_processor_that_changes_the_sentence_is_refused(post_processor: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SentenceTokenizer(tokenizer(post_processor=post_processor), max_tokens=10)
