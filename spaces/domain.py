# SPDX-License-Identifier: Apache-2.0
"""The values that one dimension of a space may take: a range of reals, of integers, or a closed choice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Value = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Real:
    """The real numbers from `low` to `high`, both included."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Whether values are sampled uniformly in the logarithm; needs a positive low."""

    def __post_init__(self) -> None:
        for side, value in (("low", self.low), ("high", self.high)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{side} of a real domain must be a finite number, got {value!r}")
        _require_ordered(self.low, self.high)
        if self.log and not self.low > 0:
            raise ValueError(f"a logarithmic real domain needs low > 0, got {self.low!r}; raise low or leave log out")

    def contains(self, value: Any) -> bool:
        """Whether a value is a number of the range."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Integer:
    """The integers low, low + step, ... up to and including `high`."""

    low: int
    """Smallest value."""
    high: int
    """Largest value."""
    step: int = 1
    """Difference of neighbouring values; divides high - low."""
    log: bool = False
    """Whether values are sampled uniformly in the logarithm; needs a low of at least 1 and a step of 1."""

    def __post_init__(self) -> None:
        for side, value in (("low", self.low), ("high", self.high), ("step", self.step)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{side} of an integer domain must be an integer, got {value!r}")
        _require_ordered(self.low, self.high)
        if self.step < 1:
            raise ValueError(f"step of an integer domain must be at least 1, got {self.step}")
        if (self.high - self.low) % self.step:
            raise ValueError(
                f"step must divide high - low: {self.step} does not divide {self.high} - {self.low}; "
                f"set high to {self.low + (self.high - self.low) // self.step * self.step}"
            )
        if self.log and self.low < 1:
            raise ValueError(f"a logarithmic integer domain needs low >= 1, got {self.low}; raise low or leave log out")
        if self.log and self.step != 1:
            raise ValueError(f"a logarithmic integer domain has steps of 1, got {self.step}; leave step or log out")

    def contains(self, value: Any) -> bool:
        """Whether a value is an integer of the progression."""
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and self.low <= value <= self.high
            and (value - self.low) % self.step == 0
        )

    def values(self) -> range:
        """All values, ascending."""
        return range(self.low, self.high + 1, self.step)


@dataclass(frozen=True, slots=True)
class Choice:
    """A closed, unordered set of options."""

    options: tuple[Value, ...]
    """Distinct scalars; None: the part is absent."""

    def __post_init__(self) -> None:
        if not isinstance(self.options, tuple):
            object.__setattr__(self, "options", tuple(self.options))
        if not self.options:
            raise ValueError("a choice needs at least one option, got none; list the options")
        seen: set[tuple[type, Value]] = set()
        for option in self.options:
            if option is not None and not isinstance(option, bool | int | float | str):
                raise ValueError(f"an option must be a number, a word, true, false or null, got {option!r}")
            if isinstance(option, float) and not math.isfinite(option):
                raise ValueError(f"an option must be finite, got {option!r}; leave it out")
            if (type(option), option) in seen:
                raise ValueError(f"the options of a choice must be distinct, got {option!r} twice; list it once")
            seen.add((type(option), option))

    def contains(self, value: Any) -> bool:
        """Whether a value is one of the options; True is not 1."""
        return any(type(option) is type(value) and option == value for option in self.options)


Domain = Real | Integer | Choice


def _require_ordered(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"low must not exceed high, got low {low!r} and high {high!r}; exchange them")
