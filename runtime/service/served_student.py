# SPDX-License-Identifier: Apache-2.0
"""A served student: its request rules, tokenizer and batcher."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from runtime.layers import Array
from runtime.service.batcher import Batcher, Observe
from runtime.service.embeddings_format import RequestError, RequestRules, TokenIdList
from runtime.service.limits import ServingOptions
from runtime.service.sentence_encoder import Sentence, SentenceEncoder
from runtime.text_growth import TextGrowthError
from spaces.errors import UserError

FEW_CHARACTERS = 2000  # tokenised within 0.5 ms: less than a thread switch costs under load


class ServedStudent:
    """Tokenises the requests' inputs and encodes them in batches. Bound to the event loop in which it is created."""

    def __init__(self, encoder: SentenceEncoder, options: ServingOptions, *, name: str, observe: Observe) -> None:
        """`observe` is called after every batch. Raises ValueError for a student without a tokenizer."""
        if encoder.tokenizer is None:
            raise UserError("a student that is served must have a tokenizer; load it from its folder")
        self._tokenizer = encoder.tokenizer
        self._encode = partial(encoder.encode_token_ids, n_threads=options.n_threads)
        self.rules = RequestRules(
            model=name,
            output_dim=encoder.spec.output_dim,
            token_ids=encoder.tokenizer.token_ids if options.accept_token_ids else None,
            max_tokens=encoder.tokenizer.max_tokens,
            max_sentences=options.max_sentences,
            max_characters=options.max_characters,
        )
        self.batcher = Batcher(
            self._encode,
            max_sentences=options.max_batch,
            max_tokens=options.max_batch_tokens,
            max_wait_ms=options.max_wait_ms,
            observe=observe,
        )

    async def warm_up(self) -> None:
        """Encode one sentence, so that the first request does not pay for filling caches and tables."""
        await asyncio.to_thread(self._encode, await self.tokenise(["a sentence"]))

    async def tokenise(self, inputs: Sequence[str] | Sequence[TokenIdList]) -> list[Sentence]:
        """Token ids of the inputs: texts are tokenised (long ones in a thread), token ids are returned as they are.

        Raises RequestError for a text that the tokenizer would multiply.
        """
        texts = [text for text in inputs if isinstance(text, str)]
        if not texts:
            return [ids for ids in inputs if not isinstance(ids, str)]
        try:
            if sum(map(len, texts)) <= FEW_CHARACTERS:
                return self._tokenizer.encode(texts)
            return await asyncio.to_thread(self._tokenizer.encode, texts)
        except TextGrowthError as error:
            raise RequestError(400, str(error), param="input") from None

    async def encode(self, sentences: Sequence[Sentence]) -> Array:
        """Vectors [n, output_dim], encoded in batches with other requests."""
        return await self.batcher.encode(sentences)
