# SPDX-License-Identifier: Apache-2.0
"""Rules of single fields as annotations: specs validate them; the study file's messages and reference quote them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from spaces.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,20})?(?:e[-+]?\d{1,2})?)\s*(s|m|h|d)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The numbers that a field may hold; None leaves a side open."""

    low: float | None = None
    """Smallest number."""
    high: float | None = None
    """Largest number."""
    above: float | None = None
    """The number must be larger than this one."""

    def contains(self, value: float) -> bool:
        """Whether a finite number lies in the range."""
        return (
            (isinstance(value, int) or math.isfinite(value))
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
        )

    def __str__(self) -> str:
        parts = []
        if self.above is not None:
            parts.append(f"greater than {self.above:g}")
        if self.low is not None:
            parts.append(f"at least {self.low:.12g}")
        if self.high is not None and self.high < _MANY:
            parts.append(f"at most {self.high:.12g}")
        return " and ".join(parts) or "finite"


@dataclass(frozen=True, slots=True)
class DurationUnit:
    """Marks a field of seconds that the study file writes as a duration: 90s, 10m, 2h, 1d."""


_MANY = 10**15  # larger integers are taken for typing errors
Positive = Annotated[int, Range(low=1, high=_MANY)]
Natural = Annotated[int, Range(low=0, high=_MANY)]
Share = Annotated[float, Range(low=0, high=1)]
Seconds = Annotated[float, Range(above=0), DurationUnit()]


def parse_duration(text: str) -> float:
    """Seconds of a duration such as 90s, 10m, 1.5h or 1d."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UserError(f"a duration is a number and one of s, m, h, d, got {text!r}; write for example 90s, 10m or 2h")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if not seconds > 0:
        raise UserError(f"a duration must be positive, got {text!r}; write for example 90s, 10m or 2h")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` turns back into these seconds."""
    for unit in ("d", "h", "m"):
        if seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{seconds!r}s"


def require_name(kind: str, value: str) -> str:
    """Return the value if it is a safe name for files, studies, models and aliases. Raises ValueError otherwise."""
    if not isinstance(value, str) or _NAME.fullmatch(value) is None or ".." in value:
        raise UserError(
            f"{kind} must be 1 to 100 letters, digits, '.', '_' or '-', begin with a letter or digit and hold no '..', "
            f"got {str(value)[:120]!r}; choose another"
        )
    return value


def split_annotation(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """(type, marks) of a plain or Annotated type."""
    if get_origin(annotation) is Annotated:
        plain, *marks = get_args(annotation)
        return plain, tuple(marks)
    return annotation, ()


def without_none(annotation: Any) -> tuple[Any, bool]:
    """(annotation, whether None is allowed) of `X` or `X | None`."""
    members = get_args(annotation)
    if type(None) in members:
        rest = [member for member in members if member is not type(None)]
        if len(rest) == 1:
            return rest[0], True
    return annotation, False


class RuleError(UserError):
    """All rules that one spec violates; a study file reports each at its line."""

    def __init__(self, messages: tuple[str, ...]) -> None:
        self.messages = messages
        super().__init__("; also: ".join(messages))


def refuse(messages: Iterable[str]) -> None:
    """Raises RuleError with all messages, if there are any."""
    collected = tuple(messages)
    if collected:
        raise RuleError(collected)


def field_breaches(spec: object) -> Iterator[str]:
    """A message for every number of a spec that is not of its type or outside the Range in its annotation."""
    for name, annotation in get_type_hints(type(spec), include_extras=True).items():
        inner, optional = without_none(annotation)
        plain, marks = split_annotation(inner)
        value = getattr(spec, name)
        if (value is None and optional) or plain not in (int, float):
            continue
        allowed = (int,) if plain is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            yield f"{name} must be {'an integer' if plain is int else 'a number'}, got {value!r}; change it"
            continue
        for mark in marks:
            if isinstance(mark, Range) and not mark.contains(value):
                yield f"{name} must be {mark}, got {value!r}; change it"
