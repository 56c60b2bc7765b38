# SPDX-License-Identifier: Apache-2.0
"""Reads one spec of the study from a YAML mapping: keys, types and ranges come from the spec's own annotations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from enum import StrEnum
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from yaml.nodes import Node, ScalarNode

from spaces.fields import DurationUnit, Range, RuleError, parse_duration, split_annotation, without_none
from spaces.study.spec import file_key
from spaces.study.yaml import Problems, close_matches, describe_node, entries, items, nearest, scalar

Spec = TypeVar("Spec")
FAILED: Any = object()
"""Returned in place of a value whose problem was recorded."""
Reader = Callable[[Node, str], Any]


def read_spec(
    cls: type[Spec],
    node: Node,
    where: str,
    *,
    problems: Problems,
    readers: Mapping[str, Reader] | None = None,
    stand_ins: Mapping[str, Any] | None = None,
) -> Spec | None:
    """The spec that a mapping describes, or None when a problem was noted.

    `readers` read the fields that are not plain values; they return FAILED after noting a problem. Where a field has
    failed, its default or its stand-in takes its place, so that rules across the other fields are checked too.
    """
    found = entries(node, where, problems)
    if found is None:
        return None
    _rename(found, getattr(cls, "renamed", {}), where, problems=problems)
    hints = get_type_hints(cls, include_extras=True)
    parts = {file_key(part.name): part for part in fields(cls)}  # type: ignore[arg-type]
    misspelt: set[str] = set()
    for key, (key_node, _) in found.items():
        if key not in parts:
            problems.add(key_node, f"keys of {where} must be known", value=repr(key), remedy=nearest(key, parts))
            misspelt.update(close_matches(key, parts))
    values: dict[str, Any] = {}
    for key, part in parts.items():
        inside = key if where == "the study" else f"{where}.{key}"
        if key in found:
            read = (readers or {}).get(key)
            value_node = found[key][1]
            if read is not None:
                values[part.name] = read(value_node, inside)
            else:
                values[part.name] = read_value(hints[part.name], value_node, inside, problems=problems)
        elif key in misspelt:
            values[part.name] = FAILED
        elif part.default is MISSING and part.default_factory is MISSING:
            problems.add(node, f"{where} must have the key {key}", value="none", remedy=f"add `{key}:`")
            values[part.name] = FAILED
    failed = {name for name, value in values.items() if value is FAILED}
    for part in parts.values():
        if part.name in failed:
            values.pop(part.name)
            if part.name in (stand_ins or {}):
                values[part.name] = (stand_ins or {})[part.name]
            elif part.default is MISSING and part.default_factory is MISSING:
                return None
    try:
        spec = cls(**values)
        return None if failed else spec
    except RuleError as error:
        messages: tuple[str, ...] = error.messages
    except ValueError as error:
        messages = (str(error),)
    for message in messages:
        if any(file_key(name) in message for name in failed):
            continue  # it may be about the stand-in
        problems.add_message(place_of(message, found, node), f"{where}: {message}")
    return None


def place_of(message: str, found: Mapping[str, tuple[Node, Node]], node: Node) -> Node:
    """The node of the key that a message names first, or the whole mapping."""
    named = [(position, key) for key in found if (position := message.find(key)) >= 0]
    return found[min(named)[1]][0] if named else node


def _rename(found: dict[str, tuple[Node, Node]], renamed: Mapping[str, str], where: str, *, problems: Problems) -> None:
    """Moves values of renamed keys to the current names, with a warning."""
    for old, new in renamed.items():
        if old not in found:
            continue
        key_node, value_node = found.pop(old)
        if new in found:
            problems.add(
                key_node, f"{where} must have {new} once", value=f"{old}, its old name, too", remedy=f"remove {old}"
            )
            continue
        found[new] = key_node, value_node
        warnings.warn(f"{where}.{old} is called {new} now; the old name is still read", FutureWarning, stacklevel=2)


def read_value(annotation: Any, node: Node, where: str, *, problems: Problems) -> Any:
    """The plain value of a node by its annotation, or FAILED when a problem was noted."""
    inner, optional = without_none(annotation)
    plain, marks = split_annotation(inner)
    if get_origin(plain) is tuple:
        nodes = items(node, where, problems)
        if nodes is None:
            return FAILED
        element = get_args(plain)[0]
        read = [read_value(element, item, f"{where}[{index}]", problems=problems) for index, item in enumerate(nodes)]
        return FAILED if any(value is FAILED for value in read) else tuple(read)
    value = scalar(node) if isinstance(node, ScalarNode) else FAILED
    if value is None and optional:
        return None
    result = FAILED
    if isinstance(node, ScalarNode) and value is not None:
        result = _convert(plain, marks, value, node)
    if result is FAILED:
        remedy = _remedy(plain, marks, value)
        problems.add(node, f"{where} must be {wanted(annotation)}", value=describe_node(node), remedy=remedy)
    return result


def wanted(annotation: Any) -> str:
    """The values that an annotation allows, in words."""
    inner, optional = without_none(annotation)
    plain, marks = split_annotation(inner)
    return _wanted(plain, marks) + (", or null" if optional else "")


def _wanted(plain: Any, marks: tuple[Any, ...]) -> str:
    if get_origin(plain) is tuple:
        return "a list"
    if any(isinstance(mark, DurationUnit) for mark in marks):
        return "a positive duration"
    if isinstance(plain, type) and issubclass(plain, StrEnum):
        return " or ".join(plain)
    names = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
    ranges = [f" {mark}" for mark in marks if isinstance(mark, Range)]
    return names[plain] + "".join(ranges)


def _remedy(plain: Any, marks: tuple[Any, ...], value: Any) -> str:
    if any(isinstance(mark, DurationUnit) for mark in marks):
        return "write for example 90s, 10m or 2h"
    if isinstance(plain, type) and issubclass(plain, StrEnum):
        return nearest(str(value), plain)
    if plain is bool:
        return "write true or false"
    if plain is str:
        return "write one word, in quotes if it looks like something else"
    if plain is int and isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"write {int(value)}"
    return "change it"


def _convert(plain: Any, marks: tuple[Any, ...], value: Any, node: ScalarNode) -> Any:
    if any(isinstance(mark, DurationUnit) for mark in marks):
        try:
            return parse_duration(value) if isinstance(value, str) else FAILED
        except ValueError:
            return FAILED
    if plain is str:
        return FAILED if isinstance(value, bool) else node.value
    if isinstance(plain, type) and issubclass(plain, StrEnum):
        return plain(value) if value in tuple(plain) else FAILED
    if plain is bool:
        return value if isinstance(value, bool) else FAILED
    if isinstance(value, bool) or not isinstance(value, int if plain is int else (int, float)):
        return FAILED
    if not all(mark.contains(value) for mark in marks if isinstance(mark, Range)):
        return FAILED
    return plain(value)
