# SPDX-License-Identifier: Apache-2.0
"""The tensors of Hugging Face checkpoints under our names: BERT, RoBERTa and XLM-R, DistilBERT.

All are post-norm encoders and compute the same function from the same kinds of tensors. Differences are folded into
the weights: the token-type vector of a single sentence (row 0) is added to every position, RoBERTa's positions begin
after the padding's, and DistilBERT has no token types.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaces.errors import UserError
from spaces.student import MAX_FEATURES, MAX_LAYERS, Activation, Dense, EncoderSpec, Pooling, Projection
from trainers.teacher.config_file import ConfigFile

_ANOTHER = "choose another teacher"
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


def family_of(config: ConfigFile) -> Family:
    """The family of a config.json. Raises ValueError if it is none of ours, or a variant with another function."""
    model_type = config.text("model_type")
    if model_type not in FAMILIES:
        raise config.wrong(
            "model_type", f"one of {', '.join(FAMILIES)}, as a teacher's", remedy="choose a teacher of these families"
        )
    config.text("position_embedding_type", choices=["absolute"], remedy=_ANOTHER)
    for key in ("is_decoder", "add_cross_attention"):
        if config.boolean(key):
            raise config.wrong(key, "false", remedy=_ANOTHER)
    if config.table("quantization_config"):
        raise config.wrong(
            "quantization_config", "absent", remedy="save the model in float32, or choose another teacher"
        )
    return FAMILIES[model_type]


def encoder_spec(config: ConfigFile, *, pooling: Pooling, projection: Projection | None) -> EncoderSpec:
    """The encoder that a config.json describes."""
    family = family_of(config)

    def number(key: str, high: int = MAX_FEATURES) -> int:
        return config.required(key, config.integer(key, high=high))

    activation = config.text(family.activation) or "gelu"
    if activation not in ACTIVATIONS:
        raise config.wrong(family.activation, f"one of {', '.join(ACTIVATIONS)}", remedy=_ANOTHER)
    width, n_heads = number(family.width), number(family.n_heads)
    positions = config.required("max_position_embeddings", config.integer("max_position_embeddings"))
    if positions <= _position_offset(family, config):
        raise config.wrong("max_position_embeddings", f"more than {_position_offset(family, config)}")
    if width % n_heads:
        raise config.wrong(family.n_heads, f"a divisor of {family.width}, {width}")
    epsilon = None if family.norm_epsilon is None else config.positive(family.norm_epsilon)
    try:
        return EncoderSpec(
            n_layers=number(family.n_layers, MAX_LAYERS),
            width=width,
            n_heads=n_heads,
            head_width=width // n_heads,
            feed_forward=Dense(units=number(family.units)),
            max_tokens=positions - _position_offset(family, config),
            pooling=pooling,
            projection=projection,
            activation=ACTIVATIONS[activation],
            layer_norm_epsilon=1e-12 if epsilon is None else float(epsilon),
        )
    except UserError:
        raise
    except ValueError as error:  # a rule of encoders
        raise UserError(f"{config.path}: {error}; {_ANOTHER}") from None


def encoder_weights(take: Take, config: ConfigFile, spec: EncoderSpec) -> dict[str, Any]:
    """The encoder's tensors under our names; `take(name)` returns a checkpoint's tensor, its prefix left out."""
    family = family_of(config)
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


def _position_offset(family: Family, config: ConfigFile) -> int:
    """Rows of the position table before that of the first token; RoBERTa's padding id is 1 unless it says otherwise."""
    padding_id = config.integer("pad_token_id", low=0)
    return (1 if padding_id is None else padding_id) + 1 if family.offsets_positions else 0
