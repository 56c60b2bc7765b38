# SPDX-License-Identifier: Apache-2.0
"""How a student is distilled: loss weights, temperature, optimiser and schedule.

The budget is not part of a recipe: a trial's rungs and a graduation's length are training tokens that
the study decides. The learning rate has a warm-up and a constant phase, and decays only once a run has a known
end (warmup-stable-decay), so a student can be evaluated at any rung and trained on from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Precision(StrEnum):
    """Data type of the matrix products in training; master weights and statistics stay float32."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class TeacherOutput(StrEnum):
    """A per-token output of the teacher's last layer; cached only if a loss of the study uses it."""

    QUERIES = "queries"
    KEYS = "keys"
    VALUES = "values"
    HIDDEN = "hidden"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """One term of the distillation loss, as the search space and the teacher cache use it."""

    meaning: str
    """Meaning of its weight, in a few words."""
    compares: frozenset[TeacherOutput] = frozenset()
    """Outputs of the teacher that it compares beside sentence vectors; with any, the student must have layers."""


LOSSES: Mapping[str, Loss] = {
    "cosine": Loss(meaning="weight of the cosine loss; with that of the length, if the teacher does not normalise"),
    "query_key": Loss(
        meaning="weight of the queries x keys relations",
        compares=frozenset({TeacherOutput.QUERIES, TeacherOutput.KEYS}),
    ),
    "value_value": Loss(meaning="weight of the values x values relations", compares=frozenset({TeacherOutput.VALUES})),
    "hidden": Loss(
        meaning="weight of the last hidden states; needs the teacher's width",
        compares=frozenset({TeacherOutput.HIDDEN}),
    ),
    "similarity": Loss(meaning="weight of the in-batch similarities"),
}
"""The terms by name: each is a field of `LossWeights`, a dimension of spaces, and one `if` of `distillation_loss`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """Weights of the terms of the distillation loss; 0 leaves a term (and what it needs cached) out."""

    cosine: float = 1.0
    """1 - cosine of student's and teacher's sentence vectors, and the length's loss if they are not normalised."""
    query_key: float = 0.0
    """Deep self-attention relations queries x keys of the last layer (MiniLM, Wang et al. 2020)."""
    value_value: float = 0.0
    """Deep self-attention relations values x values of the last layer."""
    hidden: float = 0.0
    """Mean squared error of the last hidden states; student and teacher widths must agree."""
    similarity: float = 0.0
    """Kullback-Leibler divergence of in-batch similarities at the recipe's temperature."""

    def __post_init__(self) -> None:
        values = asdict(self)
        for name, value in values.items():
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"loss weight {name} must be a finite number >= 0, got {value}")
        if not any(values.values()):
            raise ValueError("at least one loss weight must be positive; set cosine to 1")

    @property
    def compares(self) -> frozenset[TeacherOutput]:
        """The teacher's outputs that terms with a weight compare, beside its sentence vectors."""
        used = [loss.compares for name, loss in LOSSES.items() if getattr(self, name) > 0.0]
        return frozenset().union(*used)

    @property
    def uses_relations(self) -> bool:
        """Whether a term regroups queries, keys or values into the recipe's relation heads."""
        return self.query_key > 0.0 or self.value_value > 0.0


LEAST_UNTRAINED_ERROR = 1e-3
"""A smaller error before training counts as this one in a relative learning rate, which would be 0 for the teacher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSpec:
    """All training hyperparameters; equal specs, recipes, data and seeds give equal students."""

    losses: LossWeights = LossWeights()
    """Weights of the loss terms."""
    learning_rate: float | None = None
    """Peak rate of Adam for matrices and norms; None: `relative_learning_rate` times the untrained student's error."""
    relative_learning_rate: float = 2e-3
    """Peak rate of Adam for matrices and norms, divided by the error (1 - cosine) that the student has before training:
    a deep student that inherits almost everything needs a lower rate than one that has much to learn."""
    table_learning_rate: float = 1e-3
    """Peak rate of the sparse Adam for token tables, whose rows are seldom touched."""
    temperature: float = 0.05
    """Temperature of the in-batch similarity term."""
    n_relation_heads: int = 12
    """Heads into which queries, keys and values are regrouped, so that head counts need not match."""
    balance_weight: float = 0.01
    """Weight of the Switch layers' load-balance loss."""
    batch_tokens: int = 1536
    """Tokens of a training batch; sentences of like length are batched together."""
    warmup_tokens: int = 20_000
    """Tokens over which the learning rate rises linearly to its peak."""
    decay_share: float = 0.5
    """Share of a graduation over which the learning rate decays linearly to 0."""
    average_decay: float = 0.99
    """Per-step decay of the weight average that is evaluated and saved."""
    pruning_tokens: int = 50_000
    """Tokens over which gradual pruning reaches the spec's sparsity."""
    precision: Precision = Precision.BFLOAT16
    """Data type of the matrix products."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "relative_learning_rate", "table_learning_rate", "temperature"):
            value = getattr(self, name)
            if value is None and name == "learning_rate":
                continue
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"{name} must be a finite positive number, got {value}")
        for name in ("n_relation_heads", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("decay_share", "average_decay"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in 0 to 1, got {getattr(self, name)}")
        for name in ("warmup_tokens", "pruning_tokens", "balance_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def peak_learning_rate(self, untrained_error: float) -> float:
        """The peak rate of a student whose error (1 - cosine, at least 0) before training is `untrained_error`."""
        if self.learning_rate is not None:
            return self.learning_rate
        return self.relative_learning_rate * max(untrained_error, LEAST_UNTRAINED_ERROR)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back into an equal recipe."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> RecipeSpec:
        """The recipe that `to_json` wrote. Raises ValueError on an unknown key or a value that breaks a rule."""
        try:
            fields = dict(document)
            if "losses" in fields:
                fields["losses"] = LossWeights(**fields["losses"])
            if "precision" in fields:
                fields["precision"] = Precision(fields["precision"])
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"not a recipe: {error}; a recipe is the object that to_json writes") from None
