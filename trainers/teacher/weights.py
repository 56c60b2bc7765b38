# SPDX-License-Identifier: Apache-2.0
"""The tensors of Hugging Face checkpoints under our names: BERT, RoBERTa and XLM-R, DistilBERT.

All are post-norm encoders and compute the same function from the same kinds of tensors. Differences are folded into
the weights: the token-type vector of a single sentence (row 0) is added to every position, RoBERTa's positions begin
after the padding's, and DistilBERT has no token types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaces.errors import UserError
from spaces.student import Activation, Dense, EncoderSpec, Pooling, Projection

Take = Callable[[str], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The names that one family of checkpoints uses in its config.json and its tensors."""

    prefix: str
    """What a checkpoint with a task head puts before every tensor name."""
    n_layers: str
    width: str
    n_heads: str
    units: str
    activation: str
    """These five: keys of config.json."""
    norm_epsilon: str | None
    """Key of config.json; None: 1e-12, always."""
    has_token_types: bool
    """Whether token-type vectors are added to the embeddings."""
    offsets_positions: bool
    """Whether positions begin at the padding id + 1."""
    layer: str
    """Before a layer's number."""
    queries_keys_values: tuple[str, str, str]
    attention_output: str
    attention_norm: str
    feed_forward_input: str
    feed_forward_output: str
    feed_forward_norm: str
    """The rest: tensor names within a layer, without `.weight` and `.bias`."""


BERT = Family(
    prefix="bert.",
    n_layers="num_hidden_layers",
    width="hidden_size",
    n_heads="num_attention_heads",
    units="intermediate_size",
    activation="hidden_act",
    norm_epsilon="layer_norm_eps",
    has_token_types=True,
    offsets_positions=False,
    layer="encoder.layer.",
    queries_keys_values=("attention.self.query", "attention.self.key", "attention.self.value"),
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    feed_forward_input="intermediate.dense",
    feed_forward_output="output.dense",
    feed_forward_norm="output.LayerNorm",
)
ROBERTA = Family(
    **{name: getattr(BERT, name) for name in Family.__slots__} | {"prefix": "roberta.", "offsets_positions": True}
)
DISTILBERT = Family(
    prefix="distilbert.",
    n_layers="n_layers",
    width="dim",
    n_heads="n_heads",
    units="hidden_dim",
    activation="activation",
    norm_epsilon=None,
    has_token_types=False,
    offsets_positions=False,
    layer="transformer.layer.",
    queries_keys_values=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    feed_forward_input="ffn.lin1",
    feed_forward_output="ffn.lin2",
    feed_forward_norm="output_layer_norm",
)
FAMILIES = {"bert": BERT, "roberta": ROBERTA, "xlm-roberta": ROBERTA, "distilbert": DISTILBERT}  # by model_type
ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
}


def family_of(config: Mapping[str, Any], *, origin: str) -> Family:
    """The family of a config.json. Raises ValueError if it is none of ours, or a variant with another function."""
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise UserError(
            f"{origin}: a teacher's model_type must be one of {', '.join(FAMILIES)}, got {model_type!r}; choose a "
            "teacher of these families"
        )
    for key, value in {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }.items():
        if config.get(key, value) != value:
            raise UserError(f"{origin}: a teacher needs {key} {value!r}, got {config[key]!r}; choose another teacher")
    return FAMILIES[model_type]


def encoder_spec(
    config: Mapping[str, Any], *, pooling: Pooling, projection: Projection | None, origin: str
) -> EncoderSpec:
    """The encoder that a config.json describes."""
    family = family_of(config, origin=origin)

    def number(key: str) -> int:
        if not isinstance(config.get(key), int):
            raise UserError(f"{origin}: {key} must be an integer, got {config.get(key)!r}; download the teacher again")
        return int(config[key])

    activation = config.get(family.activation, "gelu")
    if activation not in ACTIVATIONS:
        raise UserError(
            f"{origin}: {family.activation} must be one of {', '.join(ACTIVATIONS)}, got {activation!r}; choose "
            "another teacher"
        )
    width, n_heads = number(family.width), number(family.n_heads)
    return EncoderSpec(
        n_layers=number(family.n_layers),
        width=width,
        n_heads=n_heads,
        head_width=width // n_heads,
        feed_forward=Dense(units=number(family.units)),
        max_tokens=number("max_position_embeddings") - _position_offset(family, config),
        pooling=pooling,
        projection=projection,
        activation=ACTIVATIONS[activation],
        layer_norm_epsilon=1e-12 if family.norm_epsilon is None else float(config.get(family.norm_epsilon, 1e-12)),
    )


def encoder_weights(take: Take, config: Mapping[str, Any], spec: EncoderSpec, *, origin: str) -> dict[str, Any]:
    """The encoder's tensors under our names; `take(name)` returns a checkpoint's tensor, its prefix left out."""
    family = family_of(config, origin=origin)
    positions = take("embeddings.position_embeddings.weight")[_position_offset(family, config) :]
    if family.has_token_types:
        positions = positions + take("embeddings.token_type_embeddings.weight")[0]
    weights = {"embeddings.tokens": take("embeddings.word_embeddings.weight"), "embeddings.positions": positions}
    weights |= _both(take, "embeddings.norm", "embeddings.LayerNorm")
    for i in range(spec.n_layers):
        theirs, ours = f"{family.layer}{i}.", f"layers.{i}."
        for kind in ("weight", "bias"):
            weights[f"{ours}attention.qkv.{kind}"] = np.concatenate(
                [take(f"{theirs}{part}.{kind}") for part in family.queries_keys_values]
            )
        for name, part in {
            "attention.output": family.attention_output,
            "attention.norm": family.attention_norm,
            "feed_forward.input": family.feed_forward_input,
            "feed_forward.output": family.feed_forward_output,
            "feed_forward.norm": family.feed_forward_norm,
        }.items():
            weights |= _both(take, ours + name, theirs + part)
    return weights


def _both(take: Take, ours: str, theirs: str) -> dict[str, NDArray[np.float32]]:
    return {f"{ours}.{kind}": take(f"{theirs}.{kind}") for kind in ("weight", "bias")}


def _position_offset(family: Family, config: Mapping[str, Any]) -> int:
    """Rows of the position table before that of the first token; RoBERTa's padding id is 1 unless it says otherwise."""
    padding_id = config.get("pad_token_id")
    return (1 if padding_id is None else int(padding_id)) + 1 if family.offsets_positions else 0
