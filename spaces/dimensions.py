# SPDX-License-Identifier: Apache-2.0
"""Every dimension that a space may have: its type, its range, and the dimensions that it depends on.

The names are flat: those of `StudentSpec` first, then those of `RecipeSpec` and `LossWeights`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from spaces.fields import Range
from spaces.recipe import LOSSES, Loss, Precision
from spaces.student import MAX_SPARSITY, Pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One searchable part of a student or a recipe."""

    kind: type
    """bool, int, float or str."""
    meaning: str
    """Meaning of a value, in a few words."""
    allowed: Range | None = None
    """Range of a number; None for strings and booleans."""
    words: tuple[str, ...] = ()
    """The options of a closed choice."""
    optional: bool = False
    """Whether None (the part is left out) is a value."""
    structural: bool = True
    """Whether it belongs to the student; False: to the recipe."""
    parents: tuple[str, ...] = ()
    """Dimensions that decide whether this one is active."""
    matters: Callable[[Mapping[str, Any]], bool] = lambda values: True
    """Whether it is active, given the values of its active parents."""

    def why_not(self, value: Any) -> str | None:
        """The rule that a value violates, or None for a valid value."""
        if value is None:
            return None if self.optional else f"must be {self.wanted}"
        if self.kind is bool or self.kind is str:
            fits = isinstance(value, self.kind) and (not self.words or value in self.words)
        else:
            numbers = (int,) if self.kind is int else (int, float)
            fits = isinstance(value, numbers) and not isinstance(value, bool)
            fits = fits and (self.allowed is None or self.allowed.contains(value))
        return None if fits else f"must be {self.wanted}"

    @property
    def wanted(self) -> str:
        """The valid values, in words."""
        if self.kind is bool:
            text = "true or false"
        elif self.kind is str:
            text = " or ".join(self.words)
        else:
            text = "an integer" if self.kind is int else "a number"
            text = f"{text} {self.allowed}" if self.allowed is not None else text
        return f"{text}, or null" if self.optional else text


def _encoder(values: Mapping[str, Any]) -> bool:
    return values.get("n_layers") != 0


def _switch(values: Mapping[str, Any]) -> bool:
    return values.get("feed_forward") == "switch"


def _dense(values: Mapping[str, Any]) -> bool:
    return _encoder(values) and not _switch(values)


def _static(values: Mapping[str, Any]) -> bool:
    return not _encoder(values) or values.get("static_path") is True


_SIZE = Range(low=1, high=65_536)
_RATE = Range(above=0, high=1)
_WEIGHT = Range(low=0, high=1_000)


def _loss_weight(loss: Loss) -> Dimension:
    """The weight of a loss term; inactive at depth 0 if the term compares outputs of layers."""
    weight = Dimension(kind=float, meaning=loss.meaning, allowed=_WEIGHT, structural=False)
    return replace(weight, parents=("n_layers",), matters=_encoder) if loss.compares else weight


def _matrix_rate(meaning: str) -> Dimension:
    """A learning rate of matrices and norms; inactive where a student is a full table alone."""
    return Dimension(
        kind=float,
        meaning=meaning,
        allowed=_RATE,
        structural=False,
        parents=("n_layers", "static_embedding_dim"),
        matters=lambda values: _encoder(values) or values.get("static_embedding_dim") is not None,
    )


DIMENSIONS: dict[str, Dimension] = {
    "n_layers": Dimension(kind=int, meaning="depth; 0 is the static student", allowed=Range(low=0, high=96)),
    "width": Dimension(
        kind=int, meaning="size of a token's hidden vector", allowed=_SIZE, parents=("n_layers",), matters=_encoder
    ),
    "n_heads": Dimension(
        kind=int,
        meaning="attention heads",
        allowed=Range(low=1, high=1_024),
        parents=("n_layers",),
        matters=_encoder,
    ),
    "head_width": Dimension(
        kind=int, meaning="size of one head's vectors", allowed=_SIZE, parents=("n_layers",), matters=_encoder
    ),
    "feed_forward": Dimension(
        kind=str,
        meaning="kind of the feed-forward blocks",
        words=("dense", "switch"),
        parents=("n_layers",),
        matters=_encoder,
    ),
    "units": Dimension(
        kind=int,
        meaning="hidden units of a dense feed-forward block",
        allowed=_SIZE,
        parents=("n_layers", "feed_forward"),
        matters=_dense,
    ),
    "n_experts": Dimension(
        kind=int,
        meaning="experts of a Switch layer",
        allowed=Range(low=2, high=1_024),
        parents=("feed_forward",),
        matters=_switch,
    ),
    "expert_units": Dimension(
        kind=int, meaning="hidden units of one expert", allowed=_SIZE, parents=("feed_forward",), matters=_switch
    ),
    "capacity_factor": Dimension(
        kind=float,
        meaning="capacity of an expert in training, as a multiple of an equal share of the tokens",
        allowed=Range(above=0, high=64),
        parents=("feed_forward",),
        matters=_switch,
    ),
    "sparsity": Dimension(
        kind=float,
        meaning="share of zero blocks in every attention and feed-forward matrix",
        allowed=Range(low=0, high=MAX_SPARSITY),
        parents=("n_layers",),
        matters=_encoder,
    ),
    "embedding_dim": Dimension(
        kind=int,
        meaning="columns of the encoder's factorised token table; null: a full table",
        allowed=_SIZE,
        optional=True,
        parents=("n_layers",),
        matters=_encoder,
    ),
    "pooling": Dimension(
        kind=str,
        meaning="how token vectors become one sentence vector",
        words=tuple(Pooling),
        parents=("n_layers",),
        matters=_encoder,
    ),
    "static_path": Dimension(
        kind=bool,
        meaning="whether the mean of one table vector per token is added; always true at depth 0",
        parents=("n_layers",),
        matters=_encoder,
    ),
    "static_embedding_dim": Dimension(
        kind=int,
        meaning="columns of the static path's factorised table; null: a full table",
        allowed=_SIZE,
        optional=True,
        parents=("n_layers", "static_path"),
        matters=_static,
    ),
    **{name: _loss_weight(loss) for name, loss in LOSSES.items()},
    "temperature": Dimension(
        kind=float,
        meaning="temperature of the in-batch similarities",
        allowed=Range(above=0, high=100),
        structural=False,
        parents=("similarity",),
        matters=lambda values: values.get("similarity", 0.0) > 0.0,
    ),
    "n_relation_heads": Dimension(
        kind=int,
        meaning="heads into which queries, keys and values are regrouped",
        allowed=Range(low=1, high=1_024),
        structural=False,
        parents=("query_key", "value_value"),
        matters=lambda values: values.get("query_key", 0.0) > 0.0 or values.get("value_value", 0.0) > 0.0,
    ),
    "learning_rate": _matrix_rate("peak learning rate of matrices and norms"),
    "relative_learning_rate": _matrix_rate(
        "peak learning rate of matrices and norms, divided by the student's error before training (1 - cosine)"
    ),
    "table_learning_rate": Dimension(
        kind=float, meaning="peak learning rate of token tables", allowed=_RATE, structural=False
    ),
    "balance_weight": Dimension(
        kind=float,
        meaning="weight of the Switch layers' load-balance loss",
        allowed=_WEIGHT,
        structural=False,
        parents=("feed_forward",),
        matters=_switch,
    ),
    "batch_tokens": Dimension(
        kind=int, meaning="tokens of a training batch", allowed=Range(low=16, high=1_000_000), structural=False
    ),
    "warmup_tokens": Dimension(
        kind=int,
        meaning="training tokens of the linear learning-rate warm-up",
        allowed=Range(low=0, high=10**12),
        structural=False,
    ),
    "decay_share": Dimension(
        kind=float,
        meaning="share of a graduation over which the learning rate decays",
        allowed=Range(low=0, high=1),
        structural=False,
    ),
    "average_decay": Dimension(
        kind=float,
        meaning="decay of the exponential moving average of the weights, per step",
        allowed=Range(low=0, high=1),
        structural=False,
    ),
    "pruning_tokens": Dimension(
        kind=int,
        meaning="training tokens over which gradual pruning reaches the sparsity",
        allowed=Range(low=0, high=10**12),
        structural=False,
        parents=("sparsity",),
        matters=lambda values: values.get("sparsity", 0.0) > 0.0,
    ),
    "precision": Dimension(
        kind=str, meaning="data type of the matrix products", words=tuple(Precision), structural=False
    ),
}
