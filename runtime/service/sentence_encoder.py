# SPDX-License-Identifier: Apache-2.0
"""The interface that a service needs from a student, on any runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from runtime.layers import Array
from runtime.tokenizer import SentenceTokenizer
from spaces.student import StudentSpec

Sentence = NDArray[np.int32]
"""The token ids [tokens] of a sentence, special tokens included, truncated to the student's maximum."""


@runtime_checkable
class SentenceEncoder(Protocol):
    """A loaded student. It is called from one thread at a time, which may differ from the thread that loaded it."""

    @property
    def spec(self) -> StudentSpec:
        """Architecture of the student."""

    @property
    def tokenizer(self) -> SentenceTokenizer | None:
        """Its tokenizer."""

    def encode_token_ids(self, token_ids: Sequence[Sentence], *, n_threads: int = 1) -> Array:
        """One vector per sentence of token ids, in order: [n, output_dim]."""
