# SPDX-License-Identifier: Apache-2.0
"""A student encoder, described completely: what `trainers.modules.build` builds and what `spaces.cost` counts.

A student maps a batch of token ids to one vector per sentence. It has a static path (one vector per
token, averaged), an encoder (post-norm transformer layers, pooled), or both; their vectors are added.
Depth 0 is the static path alone. A teacher of a supported family has a `StudentSpec` too: the student
of full depth that computes the same function.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

BLOCK_OUTPUTS = 16  # rows of a pruned block; 16 x 4 bytes are one vector register of VNNI operands
BLOCK_INPUTS = 4  # columns of a pruned block
MAX_SPARSITY = 0.95
MAX_LAYERS = 1000  # DeepNet's (Wang et al. 2022), the deepest transformer trained
MAX_FEATURES = 65_536  # of a vector: the engine sums products of eight bits in 32 (runtime/native/matrix.h)
MAX_ROWS = 2**24  # of a table: the engine's, sixty times the largest vocabulary in use
SMALLEST_EPSILON = 2.0**-126  # float32's smallest normal number; what rounds to 0 makes a constant row NaN


class Pooling(StrEnum):
    """How token vectors become one sentence vector."""

    MEAN = "mean"
    CLS = "cls"


class Activation(StrEnum):
    """The feed-forward non-linearity; `gelu` is the exact (erf) form."""

    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"


class Projection(StrEnum):
    """The layer from the pooled hidden vector to the sentence vector (LaBSE's is `tanh`)."""

    LINEAR = "linear"
    TANH = "tanh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """The ordinary feed-forward block: width -> units -> width."""

    units: int
    """Hidden units of the block."""

    def __post_init__(self) -> None:
        _require_size("feed-forward units", self.units)


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """Top-1 mixture of experts (Fedus et al. 2021): a router sends each token to one expert."""

    n_experts: int
    """Number of experts, at least 2."""
    units: int
    """Hidden units of each expert."""
    capacity_factor: float = 1.25
    """In training an expert takes at most `capacity_factor * n_tokens / n_experts` tokens; serving has no limit."""

    def __post_init__(self) -> None:
        _require_size("expert units", self.units)
        _require_size("n_experts", self.n_experts)
        if self.n_experts < 2:
            raise ValueError(
                f"a Switch layer needs at least 2 experts, got {self.n_experts}; use a dense feed-forward for 1"
            )
        if not _is_number(self.capacity_factor) or not 0 < self.capacity_factor < math.inf:
            raise ValueError(f"capacity_factor must be positive and finite, got {self.capacity_factor!r}")


FeedForward = Dense | Switch


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticSpec:
    """The static path: a table of one vector per token, averaged over the sentence."""

    embedding_dim: int | None = None
    """Columns of the table when it is factorised (table x expansion); None: one full vector per token."""

    def __post_init__(self) -> None:
        if self.embedding_dim is not None:
            _require_size("static embedding_dim", self.embedding_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """Post-norm transformer layers over token and position embeddings, as in BERT."""

    n_layers: int
    """Number of layers, at least 1."""
    width: int
    """Size of the hidden vector of a token."""
    n_heads: int
    """Attention heads; must divide the width, so that every student fits the standard encoders."""
    head_width: int
    """Size of one head's queries, keys and values; at most `width / n_heads`."""
    feed_forward: FeedForward
    """Dense or Switch."""
    max_tokens: int
    """Rows of the position table: the longest sentence in tokens, special tokens included."""
    sparsity: float = 0.0
    """Share of the 16 x 4 blocks of every attention and feed-forward matrix that is zero; 0 to 0.95."""
    embedding_dim: int | None = None
    """Columns of the token table when it is factorised (table x expansion); None: the width."""
    pooling: Pooling = Pooling.MEAN
    """How token vectors become one."""
    projection: Projection | None = None
    """Layer from pooled vector to sentence vector; None only if the width is the sentence dimension."""
    activation: Activation = Activation.GELU
    """Non-linearity of the feed-forward blocks."""
    layer_norm_epsilon: float = 1e-12
    """Added to the variance in every layer norm."""

    def __post_init__(self) -> None:
        _require_size("n_layers", self.n_layers, most=MAX_LAYERS)
        for name in ("width", "n_heads", "head_width"):
            _require_size(name, getattr(self, name))
        _require_size("max_tokens", self.max_tokens, most=MAX_ROWS)
        if self.width % self.n_heads:
            raise ValueError(
                f"n_heads must divide the width: {self.n_heads} heads, width {self.width}; "
                f"choose from {[n for n in range(1, 65) if self.width % n == 0]}"
            )
        if self.n_heads * self.head_width > self.width:
            raise ValueError(
                f"heads must fit the width: {self.n_heads} heads x {self.head_width} > width {self.width}; "
                f"head_width may be at most {self.width // self.n_heads}"
            )
        if not _is_number(self.sparsity) or not 0.0 <= self.sparsity <= MAX_SPARSITY:
            raise ValueError(f"sparsity must lie in 0 to {MAX_SPARSITY}, got {self.sparsity!r}")
        if self.embedding_dim is not None:
            _require_size("embedding_dim", self.embedding_dim)
            if self.embedding_dim >= self.width:
                raise ValueError(
                    f"a factorised embedding must be narrower than the width: {self.embedding_dim} >= {self.width}; "
                    "leave embedding_dim out for a full table"
                )
        if not _is_number(self.layer_norm_epsilon) or not SMALLEST_EPSILON <= self.layer_norm_epsilon <= 1.0:
            raise ValueError(
                f"layer_norm_epsilon must lie in {SMALLEST_EPSILON:.1e} to 1, got {self.layer_norm_epsilon!r}; "
                "most encoders use 1e-12 or 1e-5"
            )
        if self.sparsity > 0.0:
            for name, n_outputs, n_inputs in self.matrix_shapes():
                if n_outputs % BLOCK_OUTPUTS or n_inputs % BLOCK_INPUTS:
                    raise ValueError(
                        f"block sparsity needs outputs divisible by {BLOCK_OUTPUTS} and inputs by {BLOCK_INPUTS}: "
                        f"{name} is {n_outputs} x {n_inputs}; change the sizes or set sparsity to 0"
                    )

    @property
    def attention_width(self) -> int:
        """Size of all heads together."""
        return self.n_heads * self.head_width

    def matrix_shapes(self) -> tuple[tuple[str, int, int], ...]:
        """(name, outputs, inputs) of the matrices of one layer that block sparsity cuts (one expert's, if Switch)."""
        units = self.feed_forward.units
        return (
            ("attention.qkv", 3 * self.attention_width, self.width),
            ("attention.output", self.width, self.attention_width),
            ("feed_forward.input", units, self.width),
            ("feed_forward.output", self.width, units),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSpec:
    """The complete architecture of a student: everything but the values of its weights."""

    vocabulary_size: int
    """Rows of the token tables."""
    output_dim: int
    """Size of the sentence vector; the teacher's."""
    encoder: EncoderSpec | None = None
    """Transformer layers; None for a static student (depth 0)."""
    static: StaticSpec | None = None
    """Static path; None to leave it out. Depth 0 needs it."""
    normalise: bool = True
    """Whether the sentence vector is scaled to length 1."""

    def __post_init__(self) -> None:
        _require_size("vocabulary_size", self.vocabulary_size, most=MAX_ROWS)
        _require_size("output_dim", self.output_dim)
        if not isinstance(self.normalise, bool):
            raise ValueError(f"normalise must be true or false, got {self.normalise!r}")
        if self.encoder is None and self.static is None:
            raise ValueError("a student of depth 0 is its static path: switch the static path on or raise the depth")
        if self.encoder is not None and self.encoder.projection is None and self.encoder.width != self.output_dim:
            raise ValueError(
                f"without a projection the width must be the sentence dimension: {self.encoder.width} != "
                f"{self.output_dim}; add a linear projection"
            )

    @property
    def n_layers(self) -> int:
        """Depth; 0 for a static student."""
        return 0 if self.encoder is None else self.encoder.n_layers

    @property
    def max_tokens(self) -> int | None:
        """Longest sentence in tokens; None when nothing limits it (static students)."""
        return None if self.encoder is None else self.encoder.max_tokens

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back into an equal spec."""
        document = asdict(self)
        if self.encoder is not None:
            kind = "switch" if isinstance(self.encoder.feed_forward, Switch) else "dense"
            document["encoder"]["feed_forward"]["kind"] = kind
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> StudentSpec:
        """The spec that `to_json` wrote. Raises ValueError on an unknown key or a value that breaks a rule."""
        try:
            fields = dict(document)
            if fields.get("encoder") is not None:
                encoder = dict(fields["encoder"])
                feed_forward = dict(encoder["feed_forward"])
                kind = feed_forward.pop("kind")
                if kind not in ("dense", "switch"):
                    raise ValueError(f"feed_forward kind must be dense or switch, got {kind!r}")
                encoder["feed_forward"] = (Switch if kind == "switch" else Dense)(**feed_forward)
                encoder["pooling"] = Pooling(encoder.get("pooling", Pooling.MEAN))
                encoder["activation"] = Activation(encoder.get("activation", Activation.GELU))
                if encoder.get("projection") is not None:
                    encoder["projection"] = Projection(encoder["projection"])
                fields["encoder"] = EncoderSpec(**encoder)
            if fields.get("static") is not None:
                fields["static"] = StaticSpec(**fields["static"])
            return cls(**fields)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"not a student spec: {error}; a student's spec is the object that to_json writes"
            ) from None


def n_zero_blocks(n_blocks: int, sparsity: float) -> int:
    """Number of zero blocks of a matrix at a sparsity."""
    return round(sparsity * n_blocks)


def n_kept_weights(n_outputs: int, n_inputs: int, sparsity: float) -> int:
    """Number of weights of a matrix outside its zero blocks."""
    n_blocks = (n_outputs // BLOCK_OUTPUTS) * (n_inputs // BLOCK_INPUTS)
    return n_outputs * n_inputs - n_zero_blocks(n_blocks, sparsity) * BLOCK_OUTPUTS * BLOCK_INPUTS


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require_size(name: str, value: int, *, most: int = MAX_FEATURES) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"{name} must be a positive integer up to {most}, got {value!r}")
