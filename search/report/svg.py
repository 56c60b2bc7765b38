# SPDX-License-Identifier: Apache-2.0
"""SVG elements that the report's charts share: root with description, scales, ticks, tooltips, formatted numbers.

A tooltip is the `<title>` of its mark, one line per fact, so it can be read without a script.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

CHARACTER_PX = 6.4
"""Mean width of a character of a 12 px label."""

Scale = Callable[[float], float]


def drawing(name: str, parts: Iterable[str], *, width: float, height: float, title: str, description: str) -> str:
    """An `<svg>` of the page's style; `name` is the prefix of its ids, `description` the text alternative."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" viewBox="0 0 {width:g} {height:g}" '
            f'aria-label="{escape(title)}" aria-describedby="{name}-description">',
            f'<desc id="{name}-description">{escape(description)}</desc>',
            f'<rect class="paper" width="{width:g}" height="{height:g}"/>',
            *(part for part in parts if part),
            "</svg>",
        ]
    )


def tip(lines: Iterable[str]) -> str:
    """The `<title>` of a mark, one line per fact, the first shown bold; empty for no lines."""
    shown = [escape(line) for line in lines if line]
    return f"<title>{chr(10).join(shown)}</title>" if shown else ""


def text(x: float, y: float, words: str, *, style: str = "tick", anchor: str = "start") -> str:
    """A `<text>` element."""
    end = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}"{end}>{escape(words)}</text>'


def vertical_title(x: float, y: float, words: str) -> str:
    """The title of a vertical axis, rotated by -90 degrees."""
    return (
        f'<text class="title" transform="translate({x:g} {y:g}) rotate(-90)" text-anchor="middle">'
        f"{escape(words)}</text>"
    )


def step_curve(corners: Sequence[tuple[float, float]], end: float) -> str:
    """Path data of a step function: each corner's height until the next, the last one's until x = `end`."""
    (x, y), *others = corners
    return f"M{x:.1f} {y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in others) + f"H{end:.1f}"


def line(x1: float, y1: float, x2: float, y2: float, *, style: str = "grid") -> str:
    """A straight line."""
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """The linear map of [low, high] to [start, end]; constant at the middle if low and high are equal."""
    if high <= low:
        return lambda value: (start + end) / 2.0
    return lambda value: start + (value - low) / (high - low) * (end - start)


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Round numbers from low to high, no more than `most`, in steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power, 20 * power) if (high - low) / step < most)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def duration(seconds: float) -> str:
    """`48 s`, `3 min 50 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(n: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
