# SPDX-License-Identifier: Apache-2.0
"""SVG charts of a search: hypervolume over tokens and over time, trials by rung, Sobol indices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from search.records.formatting import format_tick
from search.report.svg import (
    CHARACTER_PX,
    count,
    drawing,
    duration,
    line,
    linear,
    step_curve,
    text,
    ticks,
    tip,
    vertical_title,
)
from spaces.student_words import describe

if TYPE_CHECKING:
    from search.report.history import Corner, SearchHistory, Step
    from search.report.importance import Importance
    from search.report.review import SobolIndices
    from search.report.rung_counts import RungCount

WIDTH = 640
LEFT, RIGHT, TOP, BOTTOM = 56, 18, 14, 46
HEIGHT = 290

CHART_START_SHARE = 0.8
"""Share of the final hypervolume at which the chart starts: on a scale from 0 later gains would be invisible."""

MIN_GAIN_PERCENT = 0.005
"""Smallest gain in percent of the ideal that is shown as one: less is 0.00 with two decimals."""

MAX_INTERVAL_WIDTH = 0.6
"""Width of a 90% interval above which no bar is drawn: the index is practically undetermined."""

_STATES = (
    ("continued", "continued", "on"),
    ("complete", "complete", "complete"),
    ("pruned", "pruned", "pruned"),
    ("failed", "failed", "failed"),
    ("interrupted", "interrupted", "interrupted"),
    ("running", "running", "running"),
)


def share_of_ideal(history: SearchHistory, ideal: Corner) -> Callable[[float], float]:
    """A function from a hypervolume to percent of the ideal point's."""
    cost_limit, error_limit = history.reference
    whole = (cost_limit - ideal[0]) * math.log2(error_limit / ideal[1])
    return lambda area: 100.0 * area / whole if whole > 0.0 else 0.0


def history_charts(history: SearchHistory, ideal: Corner) -> tuple[str, str]:
    """The charts of hypervolume over training tokens and over search time; requires at least one step."""
    millions = history.n_tokens >= 2_000_000
    unit, name = (1e6, "millions") if millions else (1e3, "thousands")
    over_tokens = _history_chart(
        "over-tokens",
        history,
        ideal,
        at=lambda step: step.n_tokens / unit,
        end=history.n_tokens / unit,
        label=f"training tokens of all trials, {name}",
    )
    unit, name = (60.0, "minutes") if history.seconds >= 120.0 else (1.0, "seconds")
    over_time = _history_chart(
        "over-time",
        history,
        ideal,
        at=lambda step: step.seconds / unit,
        end=history.seconds / unit,
        label=f"time of the search, {name}",
    )
    return over_tokens, over_time


def _history_chart(
    name: str, history: SearchHistory, ideal: Corner, *, at: Callable[[Step], float], end: float, label: str
) -> str:
    percent = share_of_ideal(history, ideal)
    values = [percent(step.hypervolume) for step in history.steps]
    first = next(i for i, value in enumerate(values) if value >= CHART_START_SHARE * values[-1])
    span = values[-1] - values[first]
    low = max(0.0, values[first] - max(0.25 * span, 0.2))
    high = min(100.0, values[-1] + max(0.1 * span, 0.1))
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    x, y = linear(0.0, end, LEFT, right), linear(low, high, bottom, TOP)
    parts = []
    for tick in ticks(low, high):
        parts += [line(LEFT, y(tick), right, y(tick)), text(LEFT - 8, y(tick) + 4, format_tick(tick), anchor="end")]
    for tick in ticks(0.0, end, most=8):
        parts += [text(x(tick), bottom + 18, format_tick(tick), anchor="middle")]
    broken = f"V{bottom - 12}M{LEFT - 5} {bottom - 9}l10 -6M{LEFT - 5} {bottom - 4}l10 -6M{LEFT} {bottom - 7}"
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}{broken if low > 0.0 else ""}V{bottom}H{right}"/>')
    shown = list(zip(history.steps, values, strict=True))[first:]
    corners = [(x(at(step)), y(value)) for step, value in shown]
    stairs = step_curve([(corners[0][0], bottom), *corners], x(end))
    parts.append(f'<path class="below" d="{stairs}V{bottom}Z"/><path class="front" d="{stairs}"/>')
    for (step, _), (cx, cy) in sorted(zip(shown, corners, strict=True), key=lambda pair: pair[0][0].gained):
        gained = percent(step.gained) >= MIN_GAIN_PERCENT
        facts = (
            f"{step.record.name}: {describe(step.record.spec)}",
            f"{f'{percent(step.gained):+.2f}, to' if gained else 'no gain:'} {percent(step.hypervolume):.2f}%",
            f"complete after {duration(step.seconds)} and {step.n_tokens:,} tokens of all trials",
        )
        style, radius = ("step gained", 4.0) if gained else ("step", 2.4)
        parts.append(f'<circle class="{style} tip" cx="{cx:.1f}" cy="{cy:.1f}" r="{radius}">{tip(facts)}</circle>')
    parts.append(text((LEFT + right) / 2, HEIGHT - 8, label, style="title", anchor="middle"))
    parts.append(vertical_title(14, (TOP + bottom) / 2, "hypervolume, % of the ideal"))
    return drawing(
        name,
        parts,
        width=WIDTH,
        height=HEIGHT,
        title=f"Hypervolume over {label}",
        description=f"A step curve from {values[0]:.1f}% to {values[-1]:.1f}% of the ideal in "
        f"{count(len(values), 'complete trial')}; the same numbers are in the table below.",
    )


def rungs_chart(rungs: Sequence[RungCount], *, n_begun: int) -> str:
    """A stacked bar for all started trials, and one for those that reached each rung, by what happened next."""
    left, row, gap, top = 116, 34, 14, 40
    right = WIDTH - RIGHT - 40
    x = linear(0.0, max(1, n_begun), 0.0, right - left)
    parts, shown = [], [state for state in _STATES if any(getattr(rung, state[0]) for rung in rungs)]
    lost = n_begun - (rungs[0].arrived if rungs else 0)
    rows: list[tuple[str, int, list[tuple[str, str, int]]]] = [
        ("started", n_begun, [("on", "reached the first rung", n_begun - lost), ("failed", "did not", lost)])
    ]
    for rung in rungs:
        states = [(style, words, getattr(rung, name)) for name, words, style in _STATES]
        rows.append((f"{rung.n_tokens:,} tokens", rung.arrived, states))
    for i, (label, total, states) in enumerate(rows):
        y = top + i * (row + gap)
        parts.append(text(left - 10, y + row / 2 + 4, label, anchor="end", style="label"))
        at = float(left)
        for style, words, n in states:
            if not n:
                continue
            width = x(n)
            facts = tip([f"{label}: {n:,} {words}", f"of {count(total, 'trial')}"])
            parts.append(
                f'<g class="tip"><rect class="block {style}" x="{at:.1f}" y="{y}" '
                f'width="{max(1.0, width - 1.5):.1f}" height="{row}" rx="3"/>{facts}</g>'
            )
            if width > len(f"{n}") * CHARACTER_PX + 8:
                parts.append(text(at + width / 2, y + row / 2 + 4, f"{n}", style=f"count {style}", anchor="middle"))
            at += width
        parts.append(text(at + 7, y + row / 2 + 4, f"{total:,}", style="tick"))
    at = float(left)
    for _, words, style in shown:
        parts.append(f'<rect class="block {style}" x="{at:.1f}" y="10" width="12" height="12" rx="3"/>')
        parts.append(text(at + 18, 20, words, style="label"))
        at += 18 + len(words) * CHARACTER_PX + 20
    counts = "; ".join(
        f"at {rung.n_tokens:,} tokens {rung.arrived} arrived, {rung.continued} continued, {rung.pruned} were pruned, "
        f"{rung.complete} were complete"
        for rung in rungs
    )
    height = top + len(rows) * (row + gap) + 2
    return drawing(
        "rungs",
        parts,
        width=WIDTH,
        height=height,
        title="Trials at each rung",
        description=f"{n_begun} started; {counts}.",
    )


def importance_chart(fidelity: SobolIndices, latency: SobolIndices) -> str:
    """Bars by dimension, for fidelity and for latency side by side; whiskers are 90% intervals of the whole bar."""
    by_name: dict[str, list[Importance | None]] = {}
    for k, shares in enumerate((fidelity, latency)):
        for each in shares.dimensions:
            by_name.setdefault(each.name, [None, None])[k] = each
    names = sorted(by_name, key=lambda name: -max(each.total_effect for each in by_name[name] if each is not None))
    left, bar_px, row, top = 144, 112, 30, 44
    columns = (left, left + 250)
    bottom = top + max(2, len(names)) * row
    parts = []
    for title, start, shares in (("fidelity", columns[0], fidelity), ("latency", columns[1], latency)):
        parts.append(text(start, 16, f"for {title}", style="label strong"))
        if shares.dimensions:
            for share in (0, 50, 100):
                at = start + bar_px * share / 100
                parts.append(line(at, top - 6, at, bottom - 4))
                parts.append(text(at, top - 11, f"{share}%", anchor="middle"))
        else:
            for i, part in enumerate(_wrapped(shares.reason, 36)):
                parts.append(text(start, top + 12 + 17 * i, part, style="label"))
    for i, name in enumerate(names):
        y = top + i * row
        parts.append(text(left - 12, y + 15, name.replace("_", " "), style="label", anchor="end"))
        for start, one in zip(columns, by_name[name], strict=True):
            if one is not None:
                parts += _importance_bar(one, start, y, bar_px)
    return drawing(
        "importance",
        parts,
        width=WIDTH,
        height=bottom + 8,
        title="Sobol indices of the dimensions",
        description="Total-effect Sobol indices for fidelity and for latency by dimension: "
        + "; ".join(f"{name} {_describe_indices(by_name[name])}" for name in names),
    )


def _importance_bar(each: Importance, start: float, y: float, bar_px: float) -> list[str]:
    low, high = start + bar_px * each.low, start + bar_px * each.high
    facts = tip(
        [
            each.name.replace("_", " "),
            "undetermined: too few trials" if each.high - each.low > MAX_INTERVAL_WIDTH else "",
            f"total effect: {_percent(each.total_effect)} of the variance "
            f"({_percent(each.low)} to {_percent(each.high)})",
            f"first order: {_percent(each.first_order)}; the rest is interaction with other dimensions",
        ]
    )
    is_narrow = abs(high - low) < 2.0
    unclear = each.high - each.low > MAX_INTERVAL_WIDTH
    ends = f"M{low:.1f} {y + 7}v6M{high:.1f} {y + 7}v6"
    whisker = "" if is_narrow else f'<path class="whisker" d="M{low:.1f} {y + 10}H{high:.1f}{ends}"/>'
    words = _percent(each.total_effect)
    if unclear:
        words = f"unclear: {100 * each.low:.0f} to {100 * each.high:.0f}%"
    elif not is_narrow:
        words += f"  ({100 * each.low:.0f} to {100 * each.high:.0f})"
    total, first_order = (0.0, 0.0) if unclear else (each.total_effect, each.first_order)
    return [
        f'<g class="tip"><rect class="hit" x="{start}" y="{y}" width="{bar_px + 90}" height="22"/>'
        f'<rect class="block on" x="{start}" y="{y + 3}" width="{max(0.5, bar_px * total):.1f}" height="14" rx="2"/>'
        f'<rect class="block complete" x="{start}" y="{y + 3}" width="{bar_px * first_order:.1f}" height="14" rx="2"/>'
        f"{whisker}{facts}</g>",
        text(start + bar_px + 12, y + 15, words),
    ]


def _percent(share: float) -> str:
    return "0%" if share < 0.0005 else "<1%" if share < 0.01 else f"{100 * share:.0f}%"


def _describe_indices(pair: Sequence[Importance | None]) -> str:
    return ", ".join(
        f"{_percent(each.total_effect)} for {what}"
        for what, each in zip(("fidelity", "latency"), pair, strict=True)
        if each
    )


def _wrapped(words: str, width: int) -> list[str]:
    lines = [""]
    for word in words.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
