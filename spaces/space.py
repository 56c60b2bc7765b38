# SPDX-License-Identifier: Apache-2.0
"""The search space: named domains, fixed values and conditions; a point decodes to a student and a recipe.

A point maps dimension names to values. Dimensions that a point leaves out keep the teacher's value, or the
recipe's default. A dimension is active when its value can matter: implicitly by its name (no heads at
depth 0), and explicitly by a condition of the study file. Inactive entries of a point are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from graphlib import CycleError, TopologicalSorter
from typing import Any

from spaces.dimensions import DIMENSIONS, Dimension
from spaces.domain import Choice, Domain, Integer, Value
from spaces.recipe import LOSSES, LossWeights, Precision, RecipeSpec
from spaces.student import Dense, EncoderSpec, FeedForward, Pooling, Projection, StaticSpec, StudentSpec, Switch

Point = Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Domains, fixed values and conditions over the names of `DIMENSIONS`."""

    domains: Mapping[str, Domain]
    """The searched dimensions."""
    fixed: Mapping[str, Value] = field(default_factory=dict)
    """The fixed values, the same for every student."""
    conditions: Mapping[str, Mapping[str, Domain]] = field(default_factory=dict)
    """For a dimension, the values that other dimensions must have for it to be active."""
    _order: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """All names of `DIMENSIONS`, each after its parents."""

    def __post_init__(self) -> None:
        for name in (*self.domains, *self.fixed, *self.conditions):
            dimension(name)
        both = sorted(set(self.domains) & set(self.fixed))
        if both:
            raise ValueError(f"a dimension is searched or fixed, got both for {both}; keep one")
        rates = sorted({"learning_rate", "relative_learning_rate"} & {*self.domains, *self.fixed})
        if len(rates) > 1:
            raise ValueError(f"a learning rate is absolute or relative, got {' and '.join(rates)}; keep one")
        for name, domain in self.domains.items():
            rule = domain_breach(name, domain)
            if rule is not None:
                raise ValueError(f"{name} {rule}, got {domain}")
        for name, value in self.fixed.items():
            rule = dimension(name).why_not(value)
            if rule is not None:
                raise ValueError(f"{name} {rule}, got {value!r}")
        for name, conditions in self.conditions.items():
            for parent in (name, *conditions):
                if parent not in self.domains and parent not in self.fixed:
                    raise ValueError(f"a condition joins dimensions of the space, got {parent!r}; add it to the space")
        graph = {name: self.parents(name) for name in DIMENSIONS}
        try:
            object.__setattr__(self, "_order", tuple(TopologicalSorter(graph).static_order()))
        except CycleError as error:
            circle = " -> ".join(reversed(error.args[1]))
            raise ValueError(f"conditions must not run in a circle, got {circle}; remove one") from None

    @property
    def names(self) -> tuple[str, ...]:
        """The searched dimensions, each after those that it depends on."""
        return tuple(name for name in self._order if name in self.domains)

    def parents(self, name: str) -> tuple[str, ...]:
        """The dimensions that decide whether this one is active, in the space or not."""
        return tuple(dict.fromkeys((*dimension(name).parents, *self.conditions.get(name, {}))))

    def active(self, point_so_far: Point, name: str) -> bool:
        """Whether a dimension is active, given the values of the dimensions before it in `names`."""
        return self._holds(name, self.complete(point_so_far))

    def complete(self, point: Point) -> dict[str, Value]:
        """The active values of a point together with the active fixed values, parents first."""
        given = {**point, **self.fixed}
        values: dict[str, Value] = {}
        for name in self._order:
            if name in given and self._holds(name, values):
                values[name] = typed(name, given[name])
        return values

    def decode(self, point: Point, teacher: StudentSpec) -> tuple[StudentSpec, RecipeSpec]:
        """The student and the recipe of a point.

        Dimensions that the point leaves out take the teacher's value, adapted where the width requires it. Values may
        lie outside the domains, so references can be decoded too. Raises ValueError when no such student can be built.
        """
        for name in point:
            dimension(name)
        values = self.complete(point)
        student = StudentSpec(
            vocabulary_size=teacher.vocabulary_size,
            output_dim=teacher.output_dim,
            encoder=_encoder(values, teacher),
            static=_static(values, teacher),
            normalise=teacher.normalise,
        )
        recipe = _recipe(values)
        if student.encoder is not None and teacher.encoder is not None:
            _require_comparable(student.encoder, teacher.encoder, recipe)
        return student, recipe

    def breaches(self, point: Point) -> list[tuple[str, str]]:
        """(dimension, violated rule) for every invalid entry of a possibly partial point."""
        found: list[tuple[str, str]] = []
        values = self.complete({name: value for name, value in point.items() if name in DIMENSIONS})
        for name, value in point.items():
            if name not in self.domains and name not in self.fixed:
                found.append((name, f"must be a dimension of the space: {', '.join(self.domains)}"))
            elif name in self.fixed and not _same(typed(name, value), typed(name, self.fixed[name])):
                found.append((name, f"must be {self.fixed[name]!r}, as the space fixes it"))
            elif name in self.domains and not self.domains[name].contains(typed(name, value)):
                found.append((name, f"must lie in its domain, {show_domain(self.domains[name])}"))
            elif name not in values and self._decided(name, point):
                if name == "static_path" and value is True:
                    continue  # forced on at depth 0: saying so is right
                found.append((name, "has no effect in this point, by its conditions"))
        return found

    def _holds(self, name: str, values: Mapping[str, Value]) -> bool:
        if not dimension(name).matters(values):
            return False
        conditions = self.conditions.get(name, {})
        return all(
            parent in values and domain.contains(typed(parent, values[parent])) for parent, domain in conditions.items()
        )

    def _decided(self, name: str, point: Point) -> bool:
        return all(
            parent not in self.domains or (parent in point and self._decided(parent, point))
            for parent in self.parents(name)
        )


def dimension(name: str) -> Dimension:
    """The dimension of a name; ValueError lists the names when there is none."""
    try:
        return DIMENSIONS[name]
    except KeyError:
        raise ValueError(f"{name!r} is not a dimension; choose from {', '.join(DIMENSIONS)}") from None


def domain_breach(name: str, domain: Domain) -> str | None:
    """The rule of its dimension that a domain violates, or None if all values are valid."""
    wanted = dimension(name)
    if isinstance(domain, Choice):
        return next((rule for rule in map(wanted.why_not, domain.options) if rule is not None), None)
    if wanted.kind not in (int, float):
        return f"must be a list of options ({wanted.wanted})"
    if (wanted.kind is int) != isinstance(domain, Integer):
        return f"must be {wanted.wanted}"
    return next((rule for rule in map(wanted.why_not, (domain.low, domain.high)) if rule is not None), None)


def show_domain(domain: Domain) -> str:
    """A domain in a few words."""
    if isinstance(domain, Choice):
        return "one of " + ", ".join("null" if option is None else str(option).lower() for option in domain.options)
    step = f" in steps of {domain.step}" if isinstance(domain, Integer) and domain.step != 1 else ""
    return f"{domain.low:g} to {domain.high:g}{step}{', logarithmic' if domain.log else ''}"


def typed(name: str, value: Value) -> Value:
    """The value; an integer for a real-valued dimension is converted to float."""
    if dimension(name).kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _same(left: Value, right: Value) -> bool:
    return type(left) is type(right) and left == right


def _encoder(values: Mapping[str, Any], teacher: StudentSpec) -> EncoderSpec | None:
    n_layers = values.get("n_layers", teacher.n_layers)
    if n_layers == 0:
        return None
    model = teacher.encoder
    if model is None:
        raise ValueError("a static teacher has no layers to inherit, got n_layers > 0; fix n_layers to 0")
    width = values.get("width", model.width)
    n_heads = values.get("n_heads", default_heads(width, model.n_heads))
    embedding_dim = model.embedding_dim if model.embedding_dim is None or model.embedding_dim < width else None
    projection = model.projection if width == model.width else None
    if projection is None and width != teacher.output_dim:
        projection = Projection.LINEAR
    return EncoderSpec(
        n_layers=n_layers,
        width=width,
        n_heads=n_heads,
        head_width=values.get("head_width", default_head_width(width, n_heads, model.head_width)),
        feed_forward=_feed_forward(values, model),
        max_tokens=model.max_tokens,
        sparsity=values.get("sparsity", model.sparsity),
        embedding_dim=values.get("embedding_dim", embedding_dim),
        pooling=Pooling(values.get("pooling", model.pooling)),
        projection=projection,
        activation=model.activation,
        layer_norm_epsilon=model.layer_norm_epsilon,
    )


def default_heads(width: int, teacher_heads: int) -> int:
    """The teacher's head count, or the largest smaller one that divides the width."""
    return next(n for n in range(min(teacher_heads, width), 0, -1) if width % n == 0)


def default_head_width(width: int, n_heads: int, teacher_head_width: int) -> int:
    """The teacher's head width when so many heads of it fit the width, else an equal share of the width."""
    return teacher_head_width if n_heads * teacher_head_width <= width else max(1, width // n_heads)


def _feed_forward(values: Mapping[str, Any], model: EncoderSpec) -> FeedForward:
    kind = values.get("feed_forward", "switch" if isinstance(model.feed_forward, Switch) else "dense")
    if kind == "dense":
        return Dense(units=values.get("units", model.feed_forward.units))
    default = model.feed_forward if isinstance(model.feed_forward, Switch) else None
    if "n_experts" not in values and default is None:
        raise ValueError("a Switch student needs n_experts, got none; add n_experts to the space")
    capacity = 1.25 if default is None else default.capacity_factor
    return Switch(
        n_experts=values["n_experts"] if default is None else values.get("n_experts", default.n_experts),
        units=values.get("expert_units", model.feed_forward.units),
        capacity_factor=values.get("capacity_factor", capacity),
    )


def _static(values: Mapping[str, Any], teacher: StudentSpec) -> StaticSpec | None:
    is_on = values.get("static_path", teacher.static is not None)
    if not is_on and values.get("n_layers", teacher.n_layers) > 0:
        return None
    default = None if teacher.static is None else teacher.static.embedding_dim
    return StaticSpec(embedding_dim=values.get("static_embedding_dim", default))


def _require_comparable(student: EncoderSpec, teacher: EncoderSpec, recipe: RecipeSpec) -> None:
    """Raises ValueError when a loss of the recipe cannot compare these two encoders."""
    if recipe.losses.hidden > 0.0 and student.width != teacher.width:
        raise ValueError(
            f"the hidden loss needs the teacher's width, got {student.width} instead of {teacher.width}; "
            f"give the dimension hidden the condition `when: {{width: {teacher.width}}}`"
        )
    for whose, encoder in (("student", student), ("teacher", teacher)):
        if recipe.losses.uses_relations and encoder.attention_width % recipe.n_relation_heads:
            raise ValueError(
                f"n_relation_heads must divide the {whose}'s attention width, got {recipe.n_relation_heads} and "
                f"{encoder.n_heads} heads x {encoder.head_width}; add n_relation_heads to the space"
            )


def _recipe(values: Mapping[str, Any]) -> RecipeSpec:
    losses = {name: values[name] for name in LOSSES if name in values}
    names = {part.name for part in fields(RecipeSpec)} - {"losses", "precision"}
    return RecipeSpec(
        losses=LossWeights(**losses),
        precision=Precision(values.get("precision", RecipeSpec().precision)),
        **{name: value for name, value in values.items() if name in names},
    )
