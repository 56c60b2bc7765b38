# SPDX-License-Identifier: Apache-2.0
"""What a service needs of a student, whichever runtime it is on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from runtime.layers import Array
from runtime.tokenizer import SentenceTokenizer
from spaces.student import StudentSpec

Sentence = NDArray[np.int32]
"""The token ids [tokens] of a sentence, special tokens included, cut to what the student reads."""


@runtime_checkable
class SentenceEncoder(Protocol):
    """A student that is ready to encode. Calls come from one thread at a time, and not the one that loaded it."""

    @property
    def spec(self) -> StudentSpec:
        """What the student is."""

    @property
    def tokenizer(self) -> SentenceTokenizer | None:
        """Its tokenizer."""

    def encode_token_ids(self, token_ids: Sequence[Sentence], *, n_threads: int = 1) -> Array:
        """One vector per sentence of token ids, in order: [n, output_dim]."""
