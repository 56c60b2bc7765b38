# SPDX-License-Identifier: Apache-2.0
"""Every body is a request or a RequestError, and every vector that is written reads back."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.service.embeddings_format import EncodingFormat, RequestError, RequestRules, read_request, write_response
from runtime.tokenizer import TokenIdForm

FORM = TokenIdForm(known=frozenset(range(12)) - {7}, prefix=(1,), suffix=(2, 3))  # no token has the id 7
RULES = RequestRules(model="tiny", output_dim=16, token_ids=FORM, max_tokens=10, max_sentences=4, max_characters=20)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["input", "model", "encoding_format", "dimensions", "user", "else"])


def read(**document: Any) -> Any:
    return read_request(json.dumps({"model": "tiny", **document}).encode(), RULES)


@given(st.dictionaries(KEYS, JSON_VALUES | st.just("tiny")) | JSON_VALUES)
def test_any_json_is_a_request_or_an_error_object(document: Any) -> None:
    try:
        request = read_request(json.dumps(document).encode(), RULES)
    except RequestError as error:
        assert error.status in (400, 404)
        assert set(json.loads(json.dumps(error.to_json()))["error"]) == {"message", "type", "param", "code"}
    else:
        assert request.sentences


@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_an_error(body: bytes) -> None:
    with pytest.raises(RequestError):
        read_request(body, RULES)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"input": ' + b"9" * 5000 + b"}", "a number has too many digits"),
        (b'{"input": NaN}', "NaN is no number of JSON"),
        (b'{"input": -Infinity}', "-Infinity is no number of JSON"),
        (b"\xff{}", "its byte 0 is not UTF-8"),
        (b'{"input": "\xc3"}', "its byte 11 is not UTF-8"),
        (b"", "it is no JSON from line 1, column 1 on"),
        (b'{\n"input" "a"}', "it is no JSON from line 2, column 9 on"),
        (b'{"input": "a\tb"}', "it is no JSON from line 1, column 13 on"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_json_that_breaks_parsers_is_an_error_in_own_words(body: bytes, fault: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_request(body, RULES)
    assert str(caught.value).startswith(f"the body must be JSON: {fault}; send an object")


@pytest.mark.parametrize(
    ("document", "param", "message"),
    [
        ({}, "input", "got null"),
        ({"input": None}, "input", "got null"),
        ({"input": 3}, "input", "got 3"),
        ({"input": {"text": "a"}}, "input", 'got {"text": "a"}'),
        ({"input": []}, "input", "empty list"),
        ({"input": ""}, "input", r"input\[0\] must not be empty"),
        ({"input": ["a", ""]}, "input", r"input\[1\] must not be empty"),
        ({"input": ["a", 1]}, "input", r"input\[1\] must be a string"),
        ({"input": ["a", ["b"]]}, "input", r"input\[1\] must be a string"),
        ({"input": [1, "a"]}, "input", "token ids"),
        ({"input": [True]}, "input", "must be a string .* got true"),
        ({"input": [1, True]}, "input", "token ids"),
        ({"input": [1.0]}, "input", "must be a string"),
        ({"input": [[]]}, "input", "token ids"),
        ({"input": [[1, 2, 3], "a"]}, "input", r"input\[1\] must be a list of token ids"),
        ({"input": [1, 12, 2, 3]}, "input", r"has 11 tokens and none with the id 12 of input\[0\]; send text"),
        ({"input": [[1, 2, 3], [1, 7, 2, 3]]}, "input", r"none with the id 7 of input\[1\]"),
        ({"input": [[-1]]}, "input", "none with the id -1"),
        ({"input": [1, 10**30, 2, 3]}, "input", "none with the id 10000"),
        ({"input": [4, 5]}, "input", r"begin with \[1\] and end with \[2, 3\].*input\[0\] has \[4, 5\]; send text"),
        ({"input": [1, 4, 5]}, "input", "without padding.*check_embedding_ctx_length=False"),
        ({"input": [4, 2, 3]}, "input", "begin with"),
        ({"input": [1, 2]}, "input", "begin with"),
        ({"input": [1, 4, 2, 3, 0, 0]}, "input", "without padding"),
        ({"input": [[1, 4, 2, 3], [4]]}, "input", r"input\[1\] has \[4\]"),
        ({"input": [1] * 11}, "input", "at most 10 token ids, .* 11"),
        ({"input": ["a"] * 5}, "input", "at most 4 sentences, got 5"),
        ({"input": "a" * 21}, "input", "at most 20 characters, .* 21"),
        ({"input": "half \ud83d pair"}, "input", "surrogate"),
        ({"input": "a", "model": None}, "model", "must be a name"),
        ({"input": "a", "model": 3}, "model", "must be a name"),
        ({"input": "a", "model": "other"}, "model", '"tiny", not "other"'),
        ({"input": "a", "dimensions": 8}, "dimensions", "16, got 8"),
        ({"input": "a", "dimensions": 16.0}, "dimensions", "16, got 16.0"),
        ({"input": "a", "dimensions": "16"}, "dimensions", '16, got "16"'),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", 'float or base64, got "int8"'),
        ({"input": "a", "encoding_format": ["float"]}, "encoding_format", "float or base64"),
        ({"input": "a", "truncate": True}, None, '"truncate"; leave it out'),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_a_broken_rule_is_named_with_its_key(document: dict[str, Any], param: str | None, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        read(**document)
    assert caught.value.param == param
    assert caught.value.status == (404 if 'not "other"' in message else 400)


def test_text_token_ids_and_options_are_read() -> None:
    assert read(input="a b").sentences == ["a b"]
    assert read(input=["a", " "]).sentences == ["a", " "]
    assert [ids.tolist() for ids in read(input=[1, 4, 2, 3]).sentences] == [[1, 4, 2, 3]]
    sentences = [[1, 2, 3], [1, 4, 2, 5, 2, 3]]
    assert [ids.tolist() for ids in read(input=sentences).sentences] == sentences
    request = read(input="a", dimensions=16, user="someone", encoding_format="base64")
    assert request.encoding_format is EncodingFormat.BASE64
    assert read(input="a", dimensions=None, encoding_format=None).encoding_format is EncodingFormat.FLOAT


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (None, "token ids are refused here, .*send text"),
        (replace(FORM, prefix=(), suffix=()), "adds no special tokens, .*send text"),
    ],
)
@pytest.mark.parametrize("ids", [[1, 4, 2, 3], [[1, 4, 2, 3], [1, 2, 3]]])
def test_token_ids_that_cannot_be_told_from_another_tokenizers_are_refused(
    form: TokenIdForm | None, message: str, ids: list[Any]
) -> None:
    body = json.dumps({"model": "tiny", "input": ids}).encode()
    with pytest.raises(RequestError, match=message) as caught:
        read_request(body, replace(RULES, token_ids=form))
    assert (caught.value.status, caught.value.param) == (400, "input")


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_every_float32_reads_back_in_both_formats(values: list[float]) -> None:
    vectors = np.array([values, values[::-1]], dtype=np.float32)
    for encoding_format in EncodingFormat:
        document = json.loads(write_response(vectors, model="é", n_tokens=3, encoding_format=encoding_format))
        assert (document["model"], document["usage"]) == ("é", {"prompt_tokens": 3, "total_tokens": 3})
        assert [entry["index"] for entry in document["data"]] == [0, 1]
        written = [entry["embedding"] for entry in document["data"]]
        if encoding_format is EncodingFormat.BASE64:
            read_back = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in written]
        else:
            read_back = [np.array(numbers, dtype=np.float32) for numbers in written]
        np.testing.assert_array_equal(np.stack(read_back), vectors)


def test_a_vector_that_json_cannot_hold_is_never_written() -> None:
    with pytest.raises(ValueError, match="finite"):
        write_response(
            np.array([[np.nan]], dtype=np.float32), model="m", n_tokens=1, encoding_format=EncodingFormat.FLOAT
        )
