# SPDX-License-Identifier: Apache-2.0
"""Finds the points of a space that cannot be built, before a study runs.

The rules are those of the specs. Each is checked on every combination of the few dimensions that it involves, under
their conditions. Without a teacher only combinations that the space determines are checked; with one, its sizes
are used for the dimensions that the space leaves out, as in `Space.decode`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spaces.combinations import combinations
from spaces.domain import Choice, Value
from spaces.recipe import LOSSES, RecipeSpec
from spaces.space import Space, default_head_width, default_heads
from spaces.student import BLOCK_INPUTS, BLOCK_OUTPUTS, EncoderSpec, StudentSpec, Switch


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpossiblePoint:
    """A combination of values that cannot be built."""

    values: Mapping[str, Value]
    """The dimensions and values that violate the rule."""
    rule: str
    """The violated rule."""
    remedy: str
    """What to change in the space."""

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.values.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    names: tuple[str, ...]
    breaks: Callable[[Mapping[str, Any]], bool]
    rule: str
    remedy: str


_SPARSE = f"block sparsity cuts blocks of {BLOCK_OUTPUTS} outputs x {BLOCK_INPUTS} inputs, so a sparse student's"
_RULES = (
    _Rule(
        names=("width", "n_heads"),
        breaks=lambda v: v["width"] % v["n_heads"] != 0,
        rule="n_heads must divide the width",
        remedy="choose heads and widths that go together, or add a `when:` on the width",
    ),
    _Rule(
        names=("width", "n_heads", "head_width"),
        breaks=lambda v: v["n_heads"] * v["head_width"] > v["width"],
        rule="n_heads x head_width must not exceed the width",
        remedy="lower head_width or leave it out",
    ),
    _Rule(
        names=("width", "embedding_dim"),
        breaks=lambda v: v["embedding_dim"] is not None and v["embedding_dim"] >= v["width"],
        rule="a factorised embedding must be narrower than the width",
        remedy="lower embedding_dim, or write null for a full table",
    ),
    _Rule(
        names=("sparsity", "width"),
        breaks=lambda v: v["sparsity"] > 0 and v["width"] % BLOCK_OUTPUTS != 0,
        rule=f"{_SPARSE} width must be divisible by {BLOCK_OUTPUTS}",
        remedy="change the widths, or give sparsity a `when:` on the width",
    ),
    _Rule(
        names=("sparsity", "units"),
        breaks=lambda v: v["sparsity"] > 0 and v["units"] % BLOCK_OUTPUTS != 0,
        rule=f"{_SPARSE} units must be divisible by {BLOCK_OUTPUTS}",
        remedy="change the units, or give sparsity a `when:` on the units",
    ),
    _Rule(
        names=("sparsity", "expert_units"),
        breaks=lambda v: v["sparsity"] > 0 and v["expert_units"] % BLOCK_OUTPUTS != 0,
        rule=f"{_SPARSE} expert_units must be divisible by {BLOCK_OUTPUTS}",
        remedy="change the expert_units, or give sparsity a `when:` on them",
    ),
    _Rule(
        names=("sparsity", "n_heads", "head_width"),
        breaks=lambda v: v["sparsity"] > 0 and v["n_heads"] * v["head_width"] % BLOCK_OUTPUTS != 0,
        rule=f"{_SPARSE} n_heads x head_width must be divisible by {BLOCK_OUTPUTS}",
        remedy="change the heads, or give sparsity a `when:` on them",
    ),
    _Rule(
        names=("n_relation_heads", "n_heads", "head_width"),
        breaks=lambda v: v["n_heads"] * v["head_width"] % v["n_relation_heads"] != 0,
        rule="n_relation_heads must divide n_heads x head_width",
        remedy="choose relation heads that divide every attention width",
    ),
)


def impossible_points(space: Space, *, teacher: StudentSpec | None = None) -> tuple[ImpossiblePoint, ...]:
    """The combinations of dimension values that cannot be built, each once, in the order of the rules.

    With the teacher, every point of a space without impossible points decodes (real ranges: only the ends are checked).
    """
    encoder = None if teacher is None else teacher.encoder
    found: dict[tuple[str, tuple[tuple[str, Value], ...]], ImpossiblePoint] = {}
    for rule in _RULES:
        derived = {"width", "n_heads"} if encoder is not None and "head_width" in rule.names else set()
        for point in combinations(space, {*rule.names, *derived}):
            values = point if encoder is None else _with_defaults(point, encoder)
            if all(name in values for name in rule.names) and rule.breaks(values):
                part = {name: values[name] for name in rule.names}
                impossible = ImpossiblePoint(values=part, rule=rule.rule, remedy=rule.remedy)
                found[rule.rule, tuple(part.items())] = impossible
    return (
        *found.values(),
        *_forced_static(space),
        *_missing_experts(space, encoder),
        *_no_loss(space),
        *_hidden_widths(space, encoder),
        *(() if teacher is None else _unlike_teacher(space, teacher)),
    )


def _with_defaults(point: Mapping[str, Any], encoder: EncoderSpec) -> dict[str, Any]:
    """The point with what `Space.decode` would add from the teacher's encoder and the recipe's defaults."""
    values = dict(point)
    if values.get("n_layers") == 0:
        return values
    values.setdefault("width", encoder.width)
    values.setdefault("n_heads", default_heads(values["width"], encoder.n_heads))
    values.setdefault("head_width", default_head_width(values["width"], values["n_heads"], encoder.head_width))
    values.setdefault("sparsity", encoder.sparsity)
    values.setdefault("expert_units" if values.get("feed_forward") == "switch" else "units", encoder.feed_forward.units)
    if values.get("query_key", 0.0) > 0.0 or values.get("value_value", 0.0) > 0.0:
        values.setdefault("n_relation_heads", RecipeSpec().n_relation_heads)
    return values


def _forced_static(space: Space) -> Iterator[ImpossiblePoint]:
    never = space.fixed.get("static_path") is False or space.domains.get("static_path") == Choice((False,))
    if never and any(values.get("n_layers") == 0 for values in combinations(space, ("n_layers",))):
        yield ImpossiblePoint(
            values={"n_layers": 0, "static_path": False},
            rule="a student of depth 0 is its static path",
            remedy="let static_path be true, or begin n_layers at 1",
        )


def _missing_experts(space: Space, encoder: EncoderSpec | None) -> Iterator[ImpossiblePoint]:
    if encoder is not None and isinstance(encoder.feed_forward, Switch):
        return
    for values in combinations(space, ("feed_forward", "n_experts")):
        if values.get("feed_forward") == "switch" and "n_experts" not in values:
            yield ImpossiblePoint(
                values={"feed_forward": "switch"},
                rule="a Switch student needs n_experts",
                remedy="add for example n_experts: [4, 8]",
            )
            return


def _no_loss(space: Space) -> Iterator[ImpossiblePoint]:
    for values in combinations(space, LOSSES):
        if not any(values.get(name, 1.0 if name == "cosine" else 0.0) for name in LOSSES):
            yield ImpossiblePoint(
                values={name: values[name] for name in ("n_layers", *LOSSES) if name in values},
                rule="at least one loss weight must be positive",
                remedy="raise the lower end of cosine",
            )
            return


def _hidden_widths(space: Space, encoder: EncoderSpec | None) -> Iterator[ImpossiblePoint]:
    widths: dict[Any, Mapping[str, Value]] = {}
    for values in combinations(space, ("hidden", "width")):
        width = values.get("width", None if encoder is None else encoder.width)
        if values.get("hidden") and width is not None:
            widths.setdefault(width, {"width": width, "hidden": values["hidden"]})
    wrong = [width for width in widths if encoder is not None and width != encoder.width]
    if not wrong and len(widths) > 1:
        wrong = [min(widths)]
    for width in wrong:
        yield ImpossiblePoint(
            values=widths[width],
            rule="the hidden loss needs the teacher's width, so it goes with one width only",
            remedy="give hidden a `when:` with the teacher's width",
        )


def _unlike_teacher(space: Space, teacher: StudentSpec) -> Iterator[ImpossiblePoint]:
    for values in combinations(space, ("n_layers", "n_relation_heads")):
        n_layers = values.get("n_layers", teacher.n_layers)
        if teacher.encoder is None:
            if n_layers != 0:
                rule = "a static teacher has no layers to inherit"
                yield ImpossiblePoint(values={"n_layers": n_layers}, rule=rule, remedy="fix n_layers to 0")
                return
            continue
        n_heads: Any = _with_defaults(values, teacher.encoder).get("n_relation_heads")
        if n_heads is not None and teacher.encoder.attention_width % n_heads:
            yield ImpossiblePoint(
                values={"n_relation_heads": n_heads},
                rule=f"n_relation_heads must divide the teacher's attention width of {teacher.encoder.attention_width}",
                remedy="choose a divisor",
            )
            return
