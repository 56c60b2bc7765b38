# SPDX-License-Identifier: Apache-2.0
"""What a service needs of a student, whichever engine runs it.

An engine that also encodes token ids spares the service from tokenising twice, and lets requests send token ids.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from runtime.layers import Array
from runtime.tokenizer import SentenceTokenizer
from spaces.student import StudentSpec


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sentence:
    """A sentence that is to be encoded."""

    text: str | None
    """As it came; None: it came as token ids."""
    token_ids: NDArray[np.int32]
    """Its token ids [tokens], special tokens included, cut to what the student reads."""


@runtime_checkable
class SentenceEncoder(Protocol):
    """A student that is ready to encode. Calls come from one thread at a time, and not the one that loaded it."""

    @property
    def spec(self) -> StudentSpec:
        """What the student is."""

    @property
    def tokenizer(self) -> SentenceTokenizer | None:
        """Its tokenizer."""

    def encode(self, sentences: Sequence[str]) -> Array:
        """One vector per sentence, in order: [n, output_dim]."""


@runtime_checkable
class TokenIdEncoder(SentenceEncoder, Protocol):
    """A student that encodes token ids, too."""

    def encode_token_ids(self, token_ids: Sequence[NDArray[np.int32]]) -> Array:
        """One vector per sentence of token ids, in order: [n, output_dim]."""


def encoding_function(
    encoder: SentenceEncoder, *, n_threads: int | None = None
) -> Callable[[Sequence[Sentence]], Array]:
    """The function from sentences to their vectors [n, output_dim].

    `n_threads` goes to an engine whose functions take it, and else to NumPy's BLAS, for the whole process.
    """
    if isinstance(encoder, TokenIdEncoder):
        encode_token_ids = _with_threads(encoder.encode_token_ids, n_threads)
        return lambda sentences: encode_token_ids([sentence.token_ids for sentence in sentences])
    encode = _with_threads(encoder.encode, n_threads)
    return lambda sentences: encode([sentence.text or "" for sentence in sentences])


def _with_threads(function: Callable[..., Array], n_threads: int | None) -> Callable[..., Array]:
    if n_threads is None:
        return function
    if "n_threads" in inspect.signature(function).parameters:
        return partial(function, n_threads=n_threads)
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=n_threads)
    return function
