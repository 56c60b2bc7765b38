# SPDX-License-Identifier: Apache-2.0
"""A tiny random teacher and text, small enough to distil in a second."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from spaces.student import Dense, EncoderSpec, StudentSpec
from trainers.distil.loop import DistillationData
from trainers.inherit.inherit import Inheritance, choose_layers
from trainers.modules.build import build, weights_of
from trainers.modules.embed import embed_tokens
from trainers.teacher.cache import Targets
from trainers.teacher.load import Teacher

ENCODER = EncoderSpec(n_layers=3, width=32, n_heads=4, head_width=8, feed_forward=Dense(units=64), max_tokens=16)
SPEC = StudentSpec(vocabulary_size=60, output_dim=32, encoder=ENCODER)


def encoder_with(**changes: object) -> StudentSpec:
    """The teacher's spec with another encoder."""
    return replace(SPEC, encoder=replace(ENCODER, **changes))  # type: ignore[arg-type]


def teacher(*, normalise: bool = True) -> Teacher:
    """A teacher with random weights, large enough to make sentences differ."""
    weights = weights_of(build(SPEC, seed=5))
    weights = {name: value * (6.0 if value.ndim == 2 else 1.0) for name, value in weights.items()}
    return Teacher(
        name="tiny",
        source="tiny",
        spec=replace(SPEC, normalise=normalise),
        weights=weights,
        tokenizer_json="",
        weights_sha256="",
        max_tokens=16,
    )


def teacher_with_tokenizer() -> Teacher:
    """The tiny teacher with words w0 to w57, between [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(58)} | {"[CLS]": 58, "[SEP]": 59}, "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 58), ("[SEP]", 59)]
    )
    return replace(teacher(), tokenizer_json=tokenizer.to_str())


def text(n_sentences: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random token ids and offsets."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, 12, n_sentences)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return generator.integers(0, 60, offsets[-1]).astype(np.int32), offsets


def data(n_sentences: int = 300, *, normalise: bool = True) -> DistillationData:
    """Training text with the teacher's vectors, queries, keys, values and hidden states, and 40 held-out sentences."""
    network = teacher(normalise=normalise).student()
    token_ids, offsets = text(n_sentences, seed=0)
    held_out_ids, held_out_offsets = text(40, seed=1)
    qkv, hidden = [], []
    with torch.inference_mode():
        for start, end in pairwise(offsets):
            output = network(torch.from_numpy(token_ids[start:end].astype(np.int64))[None])
            assert output.qkv is not None and output.hidden is not None
            qkv.append(output.qkv[0].numpy())
            hidden.append(output.hidden[0].numpy())
    queries, keys, values = np.split(np.concatenate(qkv).astype(np.float16), 3, axis=1)
    return DistillationData(
        token_ids=token_ids,
        offsets=offsets,
        targets=Targets(
            embeddings=embed_tokens(network, token_ids, offsets).astype(np.float16),
            queries=queries,
            keys=keys,
            values=values,
            hidden=np.concatenate(hidden).astype(np.float16),
            n_heads=4,
        ),
        held_out_token_ids=held_out_ids,
        held_out_offsets=held_out_offsets,
        held_out_embeddings=embed_tokens(network, held_out_ids, held_out_offsets),
    )


def inheritance(static_table: np.ndarray | None = None, *, normalise: bool = True) -> Inheritance:
    """What the tiny teacher's students inherit."""
    token_ids, offsets = text(120, seed=2)
    source = teacher(normalise=normalise)
    embeddings = embed_tokens(source.student(), token_ids, offsets)
    return Inheritance(
        teacher=source,
        calibration_token_ids=token_ids,
        calibration_offsets=offsets,
        calibration_embeddings=embeddings,
        calibration_targets=embeddings,
        token_counts=np.bincount(token_ids, minlength=60),
        layers=choose_layers(teacher().student(), token_ids, offsets),
        static_table=static_table,
    )
