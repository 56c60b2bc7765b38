# SPDX-License-Identifier: Apache-2.0
"""Request and response bodies of `POST /v1/embeddings` (OpenAI's embeddings API).

https://platform.openai.com/docs/api-reference/embeddings. As there, empty sentences, empty lists and unknown keys
are refused. Unlike there, a sentence that is longer than the student reads is cut, as everywhere in this project;
token ids are the student's own, special tokens included, and are never cut. Ids of another tokenizer would give
vectors that mean nothing, so ids without the student's special tokens are refused.
"""

from __future__ import annotations

import base64
import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn, assert_never

import numpy as np
from numpy.typing import NDArray

from runtime.layers import Array
from runtime.tokenizer import TokenIdForm

TokenIdList = NDArray[np.int32]

_KEYS = ("input", "model", "encoding_format", "dimensions", "user")
_FLOAT = "%.9g"  # 9 significant digits give every float32 back (IEEE 754-2019, 5.12.2), and cost a third of repr


class EncodingFormat(StrEnum):
    """How a vector is written."""

    FLOAT = "float"
    BASE64 = "base64"  # of little-endian float32


class RequestError(Exception):
    """A request that is refused; it becomes OpenAI's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def to_json(self) -> dict[str, Any]:
        """The error object."""
        kinds = {429: "rate_limit_error"} | dict.fromkeys(range(500, 600), "server_error")
        kind = kinds.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRules:
    """The limits of a request to one student."""

    model: str
    """The student's name."""
    output_dim: int
    """Dimension of a vector."""
    token_ids: TokenIdForm | None
    """What the token ids of a sentence look like; None: token ids are refused."""
    max_tokens: int | None
    """Most token ids of a sentence; None: `max_characters`."""
    max_sentences: int
    """Sentences of a request."""
    max_characters: int
    """Characters of a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """A validated request."""

    sentences: list[str] | list[TokenIdList]
    """All as text, or all as token ids."""
    encoding_format: EncodingFormat
    """How the vectors are written."""


def read_request(body: bytes, rules: RequestRules) -> EmbeddingRequest:
    """Parse a body. Raises RequestError for the first rule that it breaks."""
    document = _read_object(body)
    unknown = [key for key in document if key not in _KEYS]
    if unknown:
        raise RequestError(400, f"a request has the keys {', '.join(_KEYS)}, got {shown(unknown[0])}; leave it out")
    require_model(document.get("model"), rules.model)
    _check_dimensions(document.get("dimensions"), rules.output_dim)
    return EmbeddingRequest(
        encoding_format=_encoding_format(document.get("encoding_format")),
        sentences=_sentences(document.get("input"), rules),
    )


def write_response(vectors: Array, *, model: str, n_tokens: int, encoding_format: EncodingFormat) -> bytes:
    """The body of the answer for vectors [n, output_dim]."""
    if not np.isfinite(vectors).all():
        raise ValueError("vectors must be finite to be written as JSON; the student's weights are too large")
    match encoding_format:
        case EncodingFormat.FLOAT:
            pattern = f"[{','.join([_FLOAT] * vectors.shape[1])}]"
            texts = [pattern % tuple(vector) for vector in vectors.tolist()]
        case EncodingFormat.BASE64:
            texts = [f'"{base64.b64encode(vector.astype("<f4").tobytes()).decode()}"' for vector in vectors]
        case _:
            assert_never(encoding_format)
    data = ",".join(f'{{"object":"embedding","index":{i},"embedding":{text}}}' for i, text in enumerate(texts))
    usage = json.dumps({"prompt_tokens": n_tokens, "total_tokens": n_tokens})
    return f'{{"object":"list","data":[{data}],"model":{json.dumps(model)},"usage":{usage}}}'.encode()


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body must be JSON: {_fault(error)}; send an object such as {_EXAMPLE}") from None
    if not isinstance(document, dict):
        raise RequestError(400, f"the body must be a JSON object, got {shown(document)}; send for example {_EXAMPLE}")
    return document


SEND_TEXT = "send text (in LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
_EXAMPLE = '{"model": "NAME", "input": ["a sentence"]}'


def _refuse_constant(name: str) -> NoReturn:
    raise _ConstantError(name)


class _ConstantError(ValueError):
    """NaN or Infinity, which Python's parser would read."""


def _fault(error: ValueError | RecursionError) -> str:
    """What is wrong with a body, without the words of Python."""
    match error:
        case json.JSONDecodeError():
            return f"it is no JSON from line {error.lineno}, column {error.colno} on"
        case UnicodeDecodeError():
            return f"its byte {error.start} is not UTF-8"
        case _ConstantError():
            return f"{error} is no number of JSON"
        case RecursionError():
            return "it is nested too deeply"
        case _:
            return "a number has too many digits"


def require_model(model: object, expected: str) -> None:
    """Raises RequestError unless a request names the served model."""
    if not isinstance(model, str) or not model:
        raise RequestError(400, f"model must be a name, got {shown(model)}; write {shown(expected)}", param="model")
    if model != expected:
        message = f"this service has the model {shown(expected)}, not {shown(model)}; GET /v1/models lists it"
        raise RequestError(404, message, param="model", code="model_not_found")


def _check_dimensions(dimensions: object, output_dim: int) -> None:
    if dimensions is not None and (type(dimensions) is not int or dimensions != output_dim):
        raise RequestError(
            400,
            f"dimensions must be the student's {output_dim}, got {shown(dimensions)}; leave it out",
            param="dimensions",
        )


def _encoding_format(value: object) -> EncodingFormat:
    if value is None:
        return EncodingFormat.FLOAT
    if not isinstance(value, str) or value not in list(EncodingFormat):
        names = " or ".join(EncodingFormat)
        raise RequestError(
            400, f"encoding_format must be {names}, got {shown(value)}; choose one", param="encoding_format"
        )
    return EncodingFormat(value)


def _sentences(value: object, rules: RequestRules) -> list[str] | list[TokenIdList]:
    """A string, strings, token ids, or lists of token ids, as a list of sentences."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise _input_error(f"input must be a string, a list of strings or token ids, got {shown(value)}; send text")
    if not value:
        raise _input_error("input must hold at least one sentence, got an empty list; send text")
    if type(value[0]) is int:
        value = [value]
    if len(value) > rules.max_sentences:
        raise _input_error(
            f"a request has at most {rules.max_sentences} sentences, got {len(value)}; send several requests"
        )
    if isinstance(value[0], list):
        return [_token_ids(ids, rules, index=i) for i, ids in enumerate(value)]
    return [_text(text, rules, index=i) for i, text in enumerate(value)]


def _text(text: object, rules: RequestRules, *, index: int) -> str:
    if not isinstance(text, str):
        raise _input_error(f"input[{index}] must be a string like the first, got {shown(text)}; send one kind of input")
    if not text:
        raise _input_error(f"input[{index}] must not be empty, got ''; leave it out")
    if len(text) > rules.max_characters:
        raise _input_error(
            f"a sentence has at most {rules.max_characters} characters, input[{index}] has {len(text)}; cut it"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _input_error(
            f"input[{index}] must be Unicode text, got half a surrogate pair at {error.start}; replace it"
        ) from None
    return text


def _token_ids(ids: object, rules: RequestRules, *, index: int) -> TokenIdList:
    if not isinstance(ids, list) or not ids or any(type(i) is not int for i in ids):
        raise _input_error(f"input[{index}] must be a list of token ids, got {shown(ids)}; send one kind of input")
    form = rules.token_ids
    if form is None:
        raise _input_error(f"token ids are refused here, input[{index}] has {shown(ids)}; {SEND_TEXT}")
    if not form.prefix and not form.suffix:
        raise _input_error(
            "the student's tokenizer adds no special tokens, so its token ids cannot be told from another "
            f"tokenizer's, input[{index}] has {shown(ids)}; {SEND_TEXT}"
        )
    most = rules.max_characters if rules.max_tokens is None else rules.max_tokens
    if len(ids) > most:
        raise _input_error(f"a sentence has at most {most} token ids, input[{index}] has {len(ids)}; cut it")
    unknown = form.first_unknown(ids)
    if unknown is not None:
        raise _input_error(
            f"token ids are of the student's own tokenizer, which has {len(form.known)} tokens and none with the id "
            f"{shown(unknown)} of input[{index}]; {SEND_TEXT}"
        )
    if not form.encloses(ids):
        raise _input_error(
            f"token ids begin with {list(form.prefix)} and end with {list(form.suffix)}, the special tokens of the "
            f"student's own tokenizer, without padding; input[{index}] has {shown(ids)}; {SEND_TEXT}"
        )
    return np.array(ids, dtype=np.int32)


def _input_error(message: str) -> RequestError:
    return RequestError(400, message, param="input")


def shown(value: object) -> str:
    """The beginning of a value, for a message, as JSON writes it."""
    return _SHOWN.repr(value)


class _JsonRepr(reprlib.Repr):
    """Writes the beginning of a JSON value."""

    def repr1(self, x: Any, level: int) -> str:
        if x is None or isinstance(x, bool):
            return json.dumps(x)
        return super().repr1(x, level)

    def repr_str(self, x: str, level: int) -> str:
        cut = x if len(x) <= self.maxstring else f"{x[: self.maxstring - 3]}..."
        return json.dumps(cut, ensure_ascii=False)


_SHOWN = _JsonRepr()
