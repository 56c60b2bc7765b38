# SPDX-License-Identifier: Apache-2.0
"""A student's encoder as Hugging Face's BertModel: its whole config.json and its tensors.

A head of BertModel is hidden_size / num_attention_heads wide, so narrower heads are padded with zeros and their queries
scaled to keep the scores; a factorised token table is multiplied out.

The configuration names every field that text-embeddings-inference requires (`BertConfig` in its
backends/candle/src/models/bert.rs): it has no defaults, unlike transformers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaces.student import Activation, EncoderSpec, StudentSpec

Weights = Mapping[str, NDArray[np.float32]]

_ACTIVATIONS = {Activation.GELU: "gelu", Activation.GELU_TANH: "gelu_pytorch_tanh", Activation.RELU: "relu"}


def bert_config(spec: StudentSpec, encoder: EncoderSpec, *, pad_token_id: int) -> dict[str, Any]:
    """The config.json of the encoder."""
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": spec.vocabulary_size,
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.n_layers,
        "num_attention_heads": encoder.n_heads,
        "intermediate_size": encoder.feed_forward.units,
        "hidden_act": _ACTIVATIONS[encoder.activation],
        "max_position_embeddings": encoder.max_tokens,
        "position_embedding_type": "absolute",
        "type_vocab_size": 1,
        "layer_norm_eps": encoder.layer_norm_epsilon,
        "pad_token_id": pad_token_id,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout": None,
        "initializer_range": 0.02,  # of no use to a trained model, but required
        "use_cache": True,
        "dtype": "float32",
        "torch_dtype": "float32",  # its name before transformers 5
    }


def graph_config(spec: StudentSpec, *, pad_token_id: int) -> dict[str, Any]:
    """The config.json beside an ONNX graph: transformers.js goes by its type, fastembed by its padding."""
    encoder = spec.encoder
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",  # a model that is given token ids and their mask
        "vocab_size": spec.vocabulary_size,
        "hidden_size": spec.output_dim,
        "num_hidden_layers": spec.n_layers,
        "num_attention_heads": 1 if encoder is None else encoder.n_heads,
        "pad_token_id": pad_token_id,
        "dtype": "float32",
        "transformers.js_config": {"dtype": "fp32"},  # its default in browsers is a graph of eight bits
    } | ({} if encoder is None else {"max_position_embeddings": encoder.max_tokens})


def bert_tensors(encoder: EncoderSpec, weights: Weights) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """BertModel's state dict; tensors that a student lacks (token types, pooler) are zero."""
    width = encoder.width
    tokens = weights["embeddings.tokens"]
    if encoder.embedding_dim is not None:
        tokens = tokens @ weights["embeddings.expand"].T
    yield "embeddings.word_embeddings.weight", tokens
    yield "embeddings.position_embeddings.weight", weights["embeddings.positions"]
    yield "embeddings.token_type_embeddings.weight", np.zeros((1, width), np.float32)
    yield from _renamed("embeddings.LayerNorm", weights, "embeddings.norm")
    for i in range(encoder.n_layers):
        ours, theirs = f"layers.{i}", f"encoder.layer.{i}"
        # BertModel divides the scores by the square root of the padded head's width.
        scale_up = math.sqrt(width // encoder.n_heads / encoder.head_width)
        qkv = zip(
            ("query", "key", "value"),
            np.split(weights[f"{ours}.attention.qkv.weight"], 3),
            np.split(weights[f"{ours}.attention.qkv.bias"], 3),
            (scale_up, 1.0, 1.0),
            strict=True,
        )
        for part, weight, bias, scale in qkv:
            yield f"{theirs}.attention.self.{part}.weight", _pad_heads(weight * np.float32(scale), encoder)
            yield f"{theirs}.attention.self.{part}.bias", _pad_heads(bias * np.float32(scale), encoder)
        output = weights[f"{ours}.attention.output.weight"]
        yield f"{theirs}.attention.output.dense.weight", _pad_heads(output.T, encoder).T
        yield f"{theirs}.attention.output.dense.bias", weights[f"{ours}.attention.output.bias"]
        yield from _renamed(f"{theirs}.attention.output.LayerNorm", weights, f"{ours}.attention.norm")
        yield from _renamed(f"{theirs}.intermediate.dense", weights, f"{ours}.feed_forward.input")
        yield from _renamed(f"{theirs}.output.dense", weights, f"{ours}.feed_forward.output")
        yield from _renamed(f"{theirs}.output.LayerNorm", weights, f"{ours}.feed_forward.norm")
    yield "pooler.dense.weight", np.zeros((width, width), np.float32)
    yield "pooler.dense.bias", np.zeros(width, np.float32)


def _renamed(theirs: str, weights: Weights, ours: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    yield f"{theirs}.weight", weights[f"{ours}.weight"]
    yield f"{theirs}.bias", weights[f"{ours}.bias"]


def _pad_heads(rows: NDArray[np.float32], encoder: EncoderSpec) -> NDArray[np.float32]:
    """Pads each head's rows with zeros: [n_heads * head_width, ...] to [width, ...]."""
    wide = encoder.width // encoder.n_heads
    heads = rows.reshape(encoder.n_heads, encoder.head_width, *rows.shape[1:])
    padded = np.zeros((encoder.n_heads, wide, *rows.shape[1:]), dtype=np.float32)
    padded[:, : encoder.head_width] = heads
    return padded.reshape(encoder.width, *rows.shape[1:])
