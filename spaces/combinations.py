# SPDX-License-Identifier: Apache-2.0
"""Enumerates combinations of a few dimensions of a space, under its conditions; counts the students of a space."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from typing import assert_never

from spaces.dimensions import DIMENSIONS
from spaces.domain import Choice, Domain, Integer, Real, Value
from spaces.space import Space

MOST_COMBINATIONS = 5_000  # enumerated per check, so that a hostile study file is checked within seconds
_MOST_INTEGERS = 1_000  # of one range; a longer one is represented by this many, evenly spaced


def combinations(space: Space, names: Iterable[str]) -> Iterator[dict[str, Value]]:
    """Yields the values of these dimensions and of those they depend on; a real range is represented by its two ends.

    At most `MOST_COMBINATIONS` are yielded.
    """
    closure = _with_ancestors(space, names)
    order = [name for name in space.names if name in closure]

    def extend(point: dict[str, Value], index: int) -> Iterator[dict[str, Value]]:
        if index == len(order):
            yield space.complete(point)
        elif space.active(point, order[index]):
            for value in candidates(space.domains[order[index]]):
                yield from extend({**point, order[index]: value}, index + 1)
        else:
            yield from extend(point, index + 1)

    return islice(extend({}, 0), MOST_COMBINATIONS)


def candidates(domain: Domain) -> Iterable[Value]:
    """The values of a finite domain, and the two ends of a real range."""
    match domain:
        case Choice():
            return domain.options
        case Integer():
            values = domain.values()
            if len(values) <= _MOST_INTEGERS:
                return values
            last = len(values) - 1
            return [values[index * last // (_MOST_INTEGERS - 1)] for index in range(_MOST_INTEGERS)]
        case Real():
            return (domain.low,) if domain.low == domain.high else (domain.low, domain.high)
        case _:
            assert_never(domain)


def conditions_meet(domain: Domain, condition: Domain) -> bool:
    """Whether some value of a domain lies in a condition's domain."""
    if isinstance(domain, Choice):
        return any(condition.contains(option) for option in domain.options)
    if isinstance(condition, Choice):
        return any(domain.contains(option) for option in condition.options)
    if isinstance(domain, Integer) and isinstance(condition, Integer):
        return any(condition.contains(value) for value in candidates(domain))
    return max(domain.low, condition.low) <= min(domain.high, condition.high)


def inert_dimensions(space: Space) -> tuple[tuple[str, str], ...]:
    """(name, remedy) of the searched dimensions that are active in no point of the space."""
    found = []
    for name in space.names:
        if not any(name in values for values in combinations(space, (name,))):
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
    needed = [_with_ancestors(space, names[index:]) for index in range(len(names) + 1)]

    @cache
    def count(index: int, context: tuple[tuple[str, Value], ...]) -> int:
        """Number of students that differ in dimensions from `index` on, given the values that these depend on."""
        if index == len(names):
            return 1
        name = names[index]
        if not space.active(dict(context), name):
            return count(index + 1, _kept(context, needed[index + 1]))
        domain = space.domains[name]
        if name not in needed[index + 1]:
            n_values = len(domain.values()) if isinstance(domain, Integer) else len(tuple(candidates(domain)))
            return n_values * count(index + 1, _kept(context, needed[index + 1]))
        values = domain.values() if isinstance(domain, Integer) else candidates(domain)
        return sum(count(index + 1, _kept((*context, (name, value)), needed[index + 1])) for value in values)

    return count(0, ())


def _kept(context: tuple[tuple[str, Value], ...], needed: set[str]) -> tuple[tuple[str, Value], ...]:
    return tuple(pair for pair in context if pair[0] in needed)


def _with_ancestors(space: Space, names: Iterable[str]) -> set[str]:
    """These dimensions and all that they depend on, directly or not."""
    closure: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in closure:
            closure.add(name)
            waiting.extend(space.parents(name))
    return closure
