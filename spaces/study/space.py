# SPDX-License-Identifier: Apache-2.0
"""Reads the `space:` of a study file.

A dimension is one value (every student has it), a list of options, or a mapping with `low`, `high` and perhaps
`log` and `step`, or `options`, or `value`, each with an optional `when:` that names the values other dimensions
must have: one value (`when: {width: 384}`), a list, or a range (`when: {sparsity: {low: 0.1}}`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from spaces.combinations import conditions_meet, inert_dimensions
from spaces.dimensions import DIMENSIONS, Dimension
from spaces.domain import Choice, Domain, Integer, Real, Value
from spaces.feasibility import impossible_points
from spaces.space import Space, typed
from spaces.study.fields import FAILED, place_of, read_value
from spaces.study.yaml import Problems, describe_node, entries, nearest, scalar

BuiltDomain = TypeVar("BuiltDomain", Real, Integer, Choice)

_KEYS = ("low", "high", "log", "step", "options", "value", "when")
_MOST_POINTS = 5  # impossible points that are listed for one rule; the rest are counted


def read_space(node: Node, where: str, *, problems: Problems) -> Space | None:
    """The space of a mapping from dimension names to domains, or None when a problem was noted."""
    found = entries(node, where, problems)
    if found is None:
        return None
    n_before = len(problems.found)
    if not found:
        problems.add(
            node, f"{where} must name a dimension", value="none", remedy="add for example n_layers: {low: 0, high: 5}"
        )
    domains: dict[str, Domain] = {}
    fixed: dict[str, Value] = {}
    conditions: dict[str, dict[str, Domain]] = {}
    for name, (key, value) in found.items():
        if name not in DIMENSIONS:
            problems.add(
                key, f"dimensions of {where} must be known", value=repr(name), remedy=nearest(name, DIMENSIONS)
            )
            continue
        reader = _DimensionReader(name, DIMENSIONS[name], f"{where}.{name}", problems)
        read = reader.read(value)
        if isinstance(read, Real | Integer | Choice):
            domains[name] = read
        elif isinstance(read, tuple):
            fixed[name] = read[0]
        if reader.when is not None:
            conditions[name] = _read_conditions(reader.when, f"{where}.{name}.when", set(found), problems)
    for name in conditions:
        for parent, condition in conditions[name].items():
            domain = Choice((fixed[parent],)) if parent in fixed else domains.get(parent)
            if domain is not None and not conditions_meet(domain, condition):
                rule = f"a condition of {where}.{name} must be possible"
                remedy = f"name values that {parent} can have, or remove {name}"
                problems.add(found[name][0], rule, value=f"{parent} is never so", remedy=remedy)
    if len(problems.found) > n_before:
        return None
    try:
        space = Space(domains=domains, fixed=fixed, conditions=conditions)
    except ValueError as error:
        problems.add_message(place_of(str(error), found, node), f"{where}: {error}")
        return None
    _note_impossible(space, found, where, problems)
    return space


def _note_impossible(space: Space, found: dict[str, tuple[Node, Node]], where: str, problems: Problems) -> None:
    for name, remedy in inert_dimensions(space):
        problems.add(
            found[name][0], f"{where}.{name} must be able to matter", value="no point where it does", remedy=remedy
        )
    by_rule: dict[str, list[Any]] = {}
    for point in impossible_points(space):
        by_rule.setdefault(point.rule, []).append(point)
    for rule, points in by_rule.items():
        place = max((found[name][0] for name in points[0].values if name in found), key=lambda key: key.start_mark.line)
        shown = "; ".join(str(point) for point in points[:_MOST_POINTS])
        if len(points) > _MOST_POINTS:
            shown += f"; and {len(points) - _MOST_POINTS} more"
        problems.add(place, f"{where}: {rule}", value=f"the impossible points {shown}", remedy=points[0].remedy)


class _DimensionReader:
    """Reads one dimension; `when` keeps the node of its condition."""

    def __init__(self, name: str, dimension: Dimension, where: str, problems: Problems) -> None:
        self.name, self.dimension, self.where, self.problems = name, dimension, where, problems
        self.when: Node | None = None

    def read(self, node: Node) -> Domain | tuple[Value] | None:
        """A domain, the one fixed value in a tuple, or None after a problem was noted."""
        match node:
            case ScalarNode():
                return self.fixed(node)
            case SequenceNode():
                return self.choice(node)
            case _:
                return self.mapping(node)

    def mapping(self, node: Node) -> Domain | tuple[Value] | None:
        found = entries(node, self.where, self.problems)
        if found is None:
            return None
        unknown = [key for key in found if key not in _KEYS]
        for key in unknown:
            self.problems.add(
                found[key][0], f"keys of {self.where} must be known", value=repr(key), remedy=nearest(key, _KEYS)
            )
        nodes = {key: pair[1] for key, pair in found.items()}
        self.when = nodes.pop("when", None)
        forms = [form for form in ("options", "value", "low") if form in nodes or (form == "low" and "high" in nodes)]
        keys = set(nodes) - set(unknown)
        if len(forms) != 1 or (forms[0] != "low" and len(keys) > 1):
            value = ", ".join(sorted(keys)) or "none of them"
            remedy = "write low and high, or options, or value"
            self.problems.add(node, f"{self.where} must be a range, a choice or a value", value=value, remedy=remedy)
            return None
        if unknown:
            return None
        if forms == ["options"]:
            return self.choice(nodes["options"])
        if forms == ["value"]:
            return self.fixed(nodes["value"])
        return self.range(node, nodes)

    def fixed(self, node: Node) -> tuple[Value] | None:
        value = self.value(node)
        return None if value is FAILED else (value,)

    def choice(self, node: Node) -> Choice | None:
        if not isinstance(node, SequenceNode):
            remedy = "write options: [first, second]"
            self.problems.add(node, f"options of {self.where} must be a list", value=describe_node(node), remedy=remedy)
            return None
        options = [self.value(item) for item in node.value]
        if any(option is FAILED for option in options):
            return None
        return self.build(node, lambda: Choice(tuple(options)))

    def value(self, node: Node) -> Any:
        """The value of a scalar, or FAILED after a problem was noted."""
        value = scalar(node) if isinstance(node, ScalarNode) else FAILED
        rule = self.dimension.why_not(value)
        if rule is not None:
            is_whole = self.dimension.kind is int and isinstance(value, float) and value.is_integer()
            remedy = f"write {value:.0f}" if is_whole else "change it"
            self.problems.add(node, f"{self.where} {rule}", value=describe_node(node), remedy=remedy)
            return FAILED
        return typed(self.name, value)

    def range(self, node: Node, nodes: dict[str, Node]) -> Domain | None:
        kind = self.dimension.kind
        if kind not in (int, float):
            remedy = f"list the options ({self.dimension.wanted})"
            self.problems.add(node, f"{self.where} has no low and high", value="a range", remedy=remedy)
            return None
        if "step" in nodes and kind is float:
            remedy = "list the options"
            self.problems.add(nodes["step"], f"{self.where} has no step", value="a step of a real range", remedy=remedy)
            return None
        missing = next((key for key in ("low", "high") if key not in nodes), None)
        if missing is not None:
            remedy = f"add {missing}"
            self.problems.add(node, f"{self.where} must have low and high", value=f"no {missing}", remedy=remedy)
            return None
        values: dict[str, Any] = {}
        for key in ("low", "high"):
            values[key] = self.value(nodes[key])
            if values[key] is None:
                rule = f"{self.where}.{key} must be a number"
                self.problems.add(nodes[key], rule, value="null", remedy="list null among options")
                return None
        for key, plain in (("log", bool), ("step", int)):
            if key in nodes:
                values[key] = read_value(plain, nodes[key], f"{self.where}.{key}", problems=self.problems)
        if any(value is FAILED for value in values.values()):
            return None
        if kind is int:
            return self.build(node, lambda: Integer(**values))
        return self.build(node, lambda: Real(**values))

    def build(self, node: Node, make: Callable[[], BuiltDomain]) -> BuiltDomain | None:
        try:
            return make()
        except ValueError as error:
            self.problems.add_message(node, f"{self.where}: {error}")
            return None


def _read_conditions(node: Node, where: str, names: set[str], problems: Problems) -> dict[str, Domain]:
    conditions: dict[str, Domain] = {}
    for parent, (key, value) in (entries(node, where, problems) or {}).items():
        if parent not in DIMENSIONS or parent not in names:
            problems.add(
                key,
                f"{where} must name a dimension of the space",
                value=repr(parent),
                remedy=nearest(parent, sorted(names)),
            )
            continue
        reader = _DimensionReader(parent, DIMENSIONS[parent], f"{where}.{parent}", problems)
        allowed = DIMENSIONS[parent].allowed
        if isinstance(value, MappingNode) and allowed is not None:
            value = _with_both_sides(value, allowed.low if allowed.low is not None else allowed.above, allowed.high)
        read = reader.read(value)
        if reader.when is not None:
            problems.add(reader.when, f"{where} has no conditions of its own", value="when", remedy="remove it")
        elif isinstance(read, tuple):
            conditions[parent] = Choice(read)
        elif read is not None:
            conditions[parent] = read
    return conditions


def _with_both_sides(node: MappingNode, low: float | None, high: float | None) -> MappingNode:
    """A condition's range with the side that it leaves out."""
    keys = {key.value for key, _ in node.value if isinstance(key, ScalarNode)}
    pairs = list(node.value)
    if len(keys & {"low", "high"}) == 1:
        missing = ({"low", "high"} - keys).pop()
        limit = low if missing == "low" else high
        key = ScalarNode("", missing, node.start_mark, node.end_mark)
        pairs.append(
            (
                key,
                ScalarNode(
                    "", f"{limit:.0f}" if limit == int(limit or 0) else f"{limit}", node.start_mark, node.end_mark
                ),
            )
        )
    return MappingNode(node.tag, pairs, node.start_mark, node.end_mark)
