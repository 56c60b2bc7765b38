# SPDX-License-Identifier: Apache-2.0
"""Options of the HTTP service: address, batching and limits of requests.

The defaults suit one small student on one machine. Both commands that serve, `understudy serve` and
`python -m runtime`, take their options from here, so that `--help` does not import a server.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints

from runtime.service.api_key import VARIABLE, read_api_key
from spaces.errors import UserError
from spaces.fields import Positive, Range, field_breaches, refuse, split_annotation, without_none

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """Where a service listens, how it batches, and which requests it refuses."""

    host: str = LOOPBACK
    """The address to listen on. There is no encryption, so the default is this machine alone."""
    port: Annotated[int, Range(low=0, high=65535)] = 8000
    """The port to listen on; 0: any that is free."""
    name: str | None = None
    """The model's name in requests; None: the folder's name."""
    api_key: str | None = field(default=None, repr=False)
    """The key that every request must have, except /health; None: none."""
    n_threads: Positive = 1
    """Threads of one encoding."""
    accept_token_ids: bool = True
    """Whether inputs may be token ids; only those of the student's own tokenizer ever are."""
    max_batch: Positive = 64
    """Sentences that are encoded together."""
    max_batch_tokens: Positive = 4096  # a short request waits for at most two batches, however long others are
    """Tokens that are encoded together; a longer sentence is encoded alone."""
    max_wait_ms: Annotated[float, Range(low=0, high=10_000)] = 0.0
    """Milliseconds that a sentence waits for others when nothing is being encoded; 0: it is encoded at once."""
    max_queue: Positive = 256
    """Most concurrent requests; others get status 429."""
    max_sentences: Positive = 2048  # what OpenAI's service takes
    """Sentences of one request."""
    max_characters: Positive = 65536
    """Characters of one sentence, or token ids; the student itself reads no further than its own positions."""
    max_body_bytes: Positive = 4 * 1024 * 1024
    """Bytes of one request's body."""
    max_header_seconds: Annotated[float, Range(above=0, high=3600)] = 10.0
    """Seconds in which a request's headers must have arrived."""
    max_body_seconds: Annotated[float, Range(above=0, high=3600)] = 30.0
    """Seconds in which a request's body must have arrived."""
    max_idle_seconds: Annotated[float, Range(above=0, high=3600)] = 30.0  # httpx's clients close theirs after 5
    """Seconds between requests, and in which a client must have read some of an answer; then it is disconnected."""

    def __post_init__(self) -> None:
        refuse(field_breaches(self))
        for name in ("host", "name"):
            if getattr(self, name) == "":
                raise UserError(f"{name} must not be empty, got ''; leave it out for the default")


_FLAGS = {
    "host": ("--host", "ADDRESS", "where to listen; there is no encryption"),
    "port": ("--port", "N", "0: any that is free, printed on stdout"),
    "name": ("--name", "NAME", "the model's name in requests; default: as it is given here"),
    "n_threads": ("--threads", "N", "threads of one encoding"),
    "accept_token_ids": ("--no-token-ids", "", "refuse token ids, also those of the student's own tokenizer"),
    "max_batch": ("--max-batch", "N", "sentences encoded together"),
    "max_batch_tokens": ("--max-batch-tokens", "N", "tokens encoded together"),
    "max_wait_ms": ("--max-wait-ms", "MS", "how long a sentence waits for others while nothing is encoded"),
    "max_queue": ("--max-queue", "N", "most concurrent requests; others get status 429"),
    "max_sentences": ("--max-sentences", "N", "sentences of one request"),
    "max_characters": ("--max-characters", "N", "characters of one sentence"),
    "max_body_bytes": ("--max-body-bytes", "N", "bytes of one request"),
    "max_header_seconds": ("--max-header-seconds", "S", "seconds in which a request's headers must have arrived"),
    "max_body_seconds": ("--max-body-seconds", "S", "seconds in which its body must have arrived"),
    "max_idle_seconds": ("--max-idle-seconds", "S", "seconds after which an idle connection is closed"),
}


def add_serving_options(parser: argparse.ArgumentParser) -> None:
    """Add one option per field of `ServingOptions` to a parser; wrong values are argparse errors."""
    hints = get_type_hints(ServingOptions, include_extras=True)
    words = f"a file with the key that requests must have; default: ${VARIABLE}, else none"
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help=words)
    parser.add_argument("--api-key", type=_refuse_key, help=argparse.SUPPRESS)
    for option in _options():
        flag, metavar, words = _FLAGS[option.name]
        if option.default is True:
            parser.add_argument(flag, dest=option.name, action="store_false", help=words)
            continue
        if option.default is not None:
            words += f"; default: {str(option.default).removesuffix('.0')}"
        read = _reader(hints[option.name])
        parser.add_argument(flag, dest=option.name, type=read, default=option.default, metavar=metavar, help=words)


def serving_options(options: argparse.Namespace) -> ServingOptions:
    """The options that a command line gave, and the API key. Raises ValueError as `ServingOptions` does."""
    api_key = read_api_key(options.api_key_file, os.environ)
    return ServingOptions(api_key=api_key, **{option.name: getattr(options, option.name) for option in _options()})


def _options() -> list[Field[Any]]:
    """The fields that the command line gives directly."""
    return [option for option in fields(ServingOptions) if option.name != "api_key"]


def _refuse_key(text: str) -> NoReturn:
    raise argparse.ArgumentTypeError(
        f"a key on the command line can be read by every user of the machine; use --api-key-file FILE or {VARIABLE}"
    )


def _reader(annotation: Any) -> Callable[[str], Any]:
    """An argparse `type` whose error states the field's rule and the value."""
    plain, marks = split_annotation(without_none(annotation)[0])
    rules = [mark for mark in marks if isinstance(mark, Range)]
    kind = {int: "a whole number", float: "a number", str: "text that is not empty"}[plain]
    rule = ", ".join([kind, *map(str, rules)])

    def read(text: str) -> Any:
        try:
            value = plain(text)
            if text and all(mark.contains(value) for mark in rules):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"must be {rule}, got {text!r}")

    return read
