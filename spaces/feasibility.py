# SPDX-License-Identifier: Apache-2.0
"""Finds the points of a space that no student can have, before a study runs.

The rules are those of `EncoderSpec`; each is tried on every combination of the few dimensions it speaks of, under
their conditions. Without a teacher only combinations that the space itself decides are judged; with one, its sizes
stand for the dimensions that the space leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any

from spaces.dimensions import DIMENSIONS, LOSSES
from spaces.domain import Choice, Domain, Integer, Real, Value
from spaces.space import Space
from spaces.student import BLOCK_INPUTS, BLOCK_OUTPUTS, StudentSpec

MOST_COMBINATIONS = 5_000  # of one rule; a range of more is judged by its first ones


@dataclass(frozen=True, slots=True, kw_only=True)
class ImpossiblePoint:
    """Values that no student can have together."""

    values: Mapping[str, Value]
    """The dimensions that break the rule."""
    rule: str
    """What must hold."""
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


_BLOCKS = f"block sparsity cuts blocks of {BLOCK_OUTPUTS} outputs x {BLOCK_INPUTS} inputs"
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
        rule=f"{_BLOCKS}, so a sparse student's width must be divisible by {BLOCK_OUTPUTS}",
        remedy="change the widths, or give sparsity a `when:` on the width",
    ),
    _Rule(
        names=("sparsity", "units"),
        breaks=lambda v: v["sparsity"] > 0 and v["units"] % BLOCK_OUTPUTS != 0,
        rule=f"{_BLOCKS}, so a sparse student's units must be divisible by {BLOCK_OUTPUTS}",
        remedy="change the units, or give sparsity a `when:` on the units",
    ),
    _Rule(
        names=("sparsity", "expert_units"),
        breaks=lambda v: v["sparsity"] > 0 and v["expert_units"] % BLOCK_OUTPUTS != 0,
        rule=f"{_BLOCKS}, so a sparse student's expert_units must be divisible by {BLOCK_OUTPUTS}",
        remedy="change the expert_units, or give sparsity a `when:` on them",
    ),
    _Rule(
        names=("sparsity", "n_heads", "head_width"),
        breaks=lambda v: v["sparsity"] > 0 and v["n_heads"] * v["head_width"] % BLOCK_OUTPUTS != 0,
        rule=f"{_BLOCKS}, so a sparse student's n_heads x head_width must be divisible by {BLOCK_OUTPUTS}",
        remedy="change the heads, or give sparsity a `when:` on them",
    ),
)


def impossible_points(space: Space, *, teacher: StudentSpec | None = None) -> tuple[ImpossiblePoint, ...]:
    """The combinations of dimension values that cannot be built, each once, in the order of the rules."""
    whole = space if teacher is None else _with_teacher(space, teacher)
    given = {*whole.domains, *whole.fixed}
    found: list[ImpossiblePoint] = []
    for rule in _RULES:
        if set(rule.names) <= given:
            seen: set[tuple[Value, ...]] = set()
            for values in islice(_combinations(whole, rule.names), MOST_COMBINATIONS):
                if all(name in values for name in rule.names) and rule.breaks(values):
                    key = tuple(values[name] for name in rule.names)
                    if key not in seen:
                        seen.add(key)
                        part = {name: values[name] for name in rule.names}
                        found.append(ImpossiblePoint(values=part, rule=rule.rule, remedy=rule.remedy))
    return (*found, *_static_points(whole), *_expert_points(whole), *_loss_points(whole), *_hidden_points(whole))


def inert_dimensions(space: Space) -> tuple[tuple[str, str], ...]:
    """(name, remedy) of the searched dimensions that are active in no point of the space."""
    found = []
    for name in space.names:
        combinations = islice(_combinations(space, (name,)), MOST_COMBINATIONS)
        if not any(name in values for values in combinations):
            parents = " and ".join(space.parents(name))
            found.append((name, f"let {parents} take a value that needs it, or remove it"))
    return tuple(found)


def count_structures(space: Space) -> int | None:
    """Distinct students (recipes aside) of a space; None when a real range or a recipe's value makes them countless."""
    names = tuple(name for name in space.names if DIMENSIONS[name].structural)
    for name in names:
        domain = space.domains[name]
        if isinstance(domain, Real) and domain.low < domain.high:
            return None
        if any(parent in space.domains and parent not in names for parent in space.parents(name)):
            return None
    needed = [_ancestors(space, names[index:]) for index in range(len(names) + 1)]

    @cache
    def count(index: int, context: tuple[tuple[str, Value], ...]) -> int:
        """Students that differ from dimension `index` on, given what decides which of them are active."""
        if index == len(names):
            return 1
        name, total = names[index], 0
        active = space.active(dict(context), name)
        for value in _candidates(space.domains[name]) if active else (None,):
            known = (*context, (name, value)) if active else context
            total += count(index + 1, tuple(pair for pair in known if pair[0] in needed[index + 1]))
        return total

    return count(0, ())


def conditions_meet(domain: Domain, condition: Domain) -> bool:
    """Whether some value of a domain lies in a condition's domain."""
    if isinstance(domain, Choice):
        return any(condition.contains(option) for option in domain.options)
    if isinstance(condition, Choice):
        return any(domain.contains(option) for option in condition.options)
    if isinstance(domain, Integer) and isinstance(condition, Integer):
        return any(condition.contains(value) for value in islice(domain.values(), MOST_COMBINATIONS))
    return max(domain.low, condition.low) <= min(domain.high, condition.high)


def _combinations(space: Space, names: tuple[str, ...]) -> Iterator[dict[str, Value]]:
    """The complete values of these dimensions and of all that decide them; real ranges stand by their two ends."""
    closure = _ancestors(space, names)
    order = [name for name in space.names if name in closure]

    def extend(point: dict[str, Value], index: int) -> Iterator[dict[str, Value]]:
        if index == len(order):
            yield space.complete(point)
        elif space.active(point, order[index]):
            for value in _candidates(space.domains[order[index]]):
                yield from extend({**point, order[index]: value}, index + 1)
        else:
            yield from extend(point, index + 1)

    return extend({}, 0)


def _ancestors(space: Space, names: tuple[str, ...]) -> set[str]:
    """These dimensions and all that decide, directly or not, whether they are active."""
    closure: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in closure:
            closure.add(name)
            waiting.extend(space.parents(name))
    return closure


def _candidates(domain: Domain) -> Iterator[Value]:
    match domain:
        case Choice():
            yield from domain.options
        case Integer():
            yield from domain.values()
        case _:
            yield from dict.fromkeys((domain.low, domain.high))


def _with_teacher(space: Space, teacher: StudentSpec) -> Space:
    encoder = teacher.encoder
    if encoder is None:
        return space
    defaults: dict[str, Value] = {"width": encoder.width, "sparsity": encoder.sparsity}
    defaults["units"] = encoder.feed_forward.units
    defaults["expert_units"] = encoder.feed_forward.units
    missing = {name: value for name, value in defaults.items() if name not in space.domains and name not in space.fixed}
    return replace(space, fixed={**space.fixed, **missing})


def _static_points(space: Space) -> tuple[ImpossiblePoint, ...]:
    if space.fixed.get("static_path") is not False and space.domains.get("static_path") != Choice((False,)):
        return ()
    if not any(
        values.get("n_layers") == 0 for values in islice(_combinations(space, ("n_layers",)), MOST_COMBINATIONS)
    ):
        return ()
    return (
        ImpossiblePoint(
            values={"n_layers": 0, "static_path": False},
            rule="a student of depth 0 is its static path",
            remedy="let static_path be true, or begin n_layers at 1",
        ),
    )


def _expert_points(space: Space) -> tuple[ImpossiblePoint, ...]:
    if "n_experts" in space.domains or "n_experts" in space.fixed:
        return ()
    for values in islice(_combinations(space, ("feed_forward",)), MOST_COMBINATIONS):
        if values.get("feed_forward") == "switch":
            return (
                ImpossiblePoint(
                    values={"feed_forward": "switch"},
                    rule="a Switch student needs n_experts",
                    remedy="add for example n_experts: [4, 8]",
                ),
            )
    return ()


def _loss_points(space: Space) -> tuple[ImpossiblePoint, ...]:
    for values in islice(_combinations(space, LOSSES), MOST_COMBINATIONS):
        weights = {name: values.get(name, 1.0 if name == "cosine" else 0.0) for name in LOSSES}
        if not any(weights.values()):
            return (
                ImpossiblePoint(
                    values={name: values[name] for name in ("n_layers", *LOSSES) if name in values},
                    rule="at least one loss weight must be positive",
                    remedy="raise the lower end of cosine",
                ),
            )
    return ()


def _hidden_points(space: Space) -> tuple[ImpossiblePoint, ...]:
    if "hidden" not in space.domains and "hidden" not in space.fixed:
        return ()
    combinations = islice(_combinations(space, ("hidden", "width")), MOST_COMBINATIONS)
    widths = sorted({values["width"] for values in combinations if values.get("hidden") and "width" in values})  # type: ignore[type-var]
    if len(widths) < 2:
        return ()
    return (
        ImpossiblePoint(
            values={"width": widths[0], "hidden": True},
            rule="the hidden loss needs the teacher's width, so it goes with one width only",
            remedy="give hidden a `when:` with the teacher's width",
        ),
    )
