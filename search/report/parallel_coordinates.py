# SPDX-License-Identifier: Apache-2.0
"""Parallel coordinates of the complete trials: one axis for each dimension, one line for each trial.

The lines of the students on the front stand out. After Inselberg (1985). A dimension that a trial does not have, as
the heads of a static student, leaves a gap in its line.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from search.records.formatting import format_ms, format_tick
from search.records.trial import TrialRecord, TrialState
from search.report.review import SearchReview
from search.report.svg import CHARACTER_PX, Scale, drawing, line, linear, text, tip
from search.report.trial_panels import format_parameter
from spaces.student_words import describe

AXIS_PX = 118
LEFT, RIGHT, TOP, HEIGHT, BOTTOM = 60, 84, 34, 340, 24
MOST_OPTIONS = 12  # values that are named on an axis; of more, some at equal distances


def parallel_coordinates(review: SearchReview, front: Collection[str]) -> str:
    """The chart as an `<svg>` element; `front` are names of trials whose lines stand out. Empty without two axes."""
    records = [record for record in review.records if record.state is TrialState.COMPLETE]
    names = [
        name for name in dict.fromkeys(name for record in records for name in record.point) if _varies(records, name)
    ]
    if not names or len(records) < 2:
        return ""
    bottom = HEIGHT - BOTTOM
    latencies = [math.log2(record.predicted_latency_ms or math.nan) for record in records]
    errors = [_height(review, record) for record in records]
    scales = [
        _Axis.of(name, [record.point.get(name) for record in records], log=name in review.logarithmic) for name in names
    ]
    costs, heights = linear(min(latencies), max(latencies), bottom, TOP), linear(min(errors), max(errors), bottom, TOP)
    ends = [
        ("latency, ms", [(at, format_ms(2.0**at)) for at in (min(latencies), max(latencies))], costs),
        ("fidelity", [(at, review.fidelity_at(2.0**-at)) for at in (min(errors), max(errors))], heights),
    ]
    parts = []
    shown = sorted(zip(records, latencies, errors, strict=True), key=lambda one: (one[0].name in front, one[2]))
    for record, latency, error in shown:
        places = [
            None if (at := axis.position(record.point.get(axis.name))) is None else axis.scale(at) for axis in scales
        ]
        style = "line on-front" if record.name in front else "line"
        path = _path([*places, costs(latency), heights(error)])
        facts = tip([f"{record.name}: {describe(record.spec)}", _words(review, record)])
        parts.append(f'<g class="tip"><path class="{style}" d="{path}"/>{facts}</g>')
    for i, axis in enumerate(scales):
        parts += _axis(LEFT + i * AXIS_PX, axis.name, axis.ticks, axis.scale)
    for i, (name, ticks, scale) in enumerate(ends):
        parts += _axis(LEFT + (len(scales) + i) * AXIS_PX, name, ticks, scale)
    n_front = sum(record.name in front for record in records)
    return drawing(
        "parallel",
        parts,
        width=LEFT + (len(scales) + 1) * AXIS_PX + RIGHT,
        height=HEIGHT,
        title="Parameters of the complete trials, as parallel coordinates",
        description=f"{len(records)} lines over the axes {', '.join(names)}, latency and fidelity; {n_front} of "
        "them are students on the front. The same numbers are in the table of all trials.",
    )


class _Axis:
    """A vertical axis of one dimension: its scale, and its ticks as (position, words)."""

    def __init__(
        self, name: str, ticks: Sequence[tuple[float, str]], positions: dict[str, float] | None, log: bool
    ) -> None:
        places = [at for at, _ in ticks] if positions is None else positions.values()
        self.name = name
        self.ticks = ticks
        self.scale: Scale = linear(min(places), max(places), HEIGHT - BOTTOM, TOP)
        self._positions, self._log = positions, log

    @classmethod
    def of(cls, name: str, values: Sequence[Any], *, log: bool) -> _Axis:
        """The axis of a dimension: options at equal distances, numbers in proportion, or of their logarithms."""
        known = [value for value in values if value is not None]
        if any(isinstance(value, bool | str) for value in known) or len(set(map(repr, known))) <= 2:
            options = list(dict.fromkeys(map(format_parameter, sorted(known, key=_order))))
            positions = {option: float(i) for i, option in enumerate(options)}
            named = options[:: math.ceil(len(options) / MOST_OPTIONS)]
            return cls(name, [(positions[option], option) for option in named], positions, False)
        low, high = float(min(known)), float(max(known))
        log = log and low > 0.0
        ends = [math.log(low), math.log(high)] if log else [low, high]
        marks = [ends[0], sum(ends) / 2, ends[1]]
        if not log and all(isinstance(value, int) for value in known):
            marks = sorted(set(map(float, known))) if len(set(known)) <= MOST_OPTIONS else [ends[0], ends[1]]
        return cls(name, [(at, _shown(math.exp(at) if log else at)) for at in marks], None, log)

    def position(self, value: Any) -> float | None:
        """Where a value lies on the scale; None if the trial has none."""
        if value is None:
            return None
        if self._positions is not None:
            return self._positions.get(format_parameter(value))
        return math.log(value) if self._log else float(value)


def _axis(x: float, name: str, ticks: Sequence[tuple[float, str]], scale: Scale) -> list[str]:
    parts = [line(x, TOP, x, HEIGHT - BOTTOM, style="axis")]
    title = name.replace("_", " ")
    if len(title) * CHARACTER_PX > AXIS_PX - 6:
        title = f"{title[: int((AXIS_PX - 12) / CHARACTER_PX)]}\N{HORIZONTAL ELLIPSIS}"
    parts.append(text(x, 16, title, style="label strong", anchor="middle"))
    drawn: list[float] = []
    for at, words in ticks:
        y = scale(at)
        if all(abs(y - other) >= 13 for other in drawn):
            drawn.append(y)
            parts += [line(x - 4, y, x, y, style="axis"), text(x + 5, y + 4, words, style="label")]
    return parts


def _path(places: Sequence[float | None]) -> str:
    words, pen = [], "M"
    for i, y in enumerate(places):
        if y is None:
            pen = "M"
            continue
        words.append(f"{pen}{LEFT + i * AXIS_PX} {y:.1f}")
        pen = "L"
    return "".join(words)


def _varies(records: Sequence[TrialRecord], name: str) -> bool:
    return len({repr(record.point[name]) for record in records if name in record.point}) > 1


def _height(review: SearchReview, record: TrialRecord) -> float:
    assert record.fidelity is not None  # a complete trial is measured
    return -math.log2(review.objective.error(review.objective.of(record.fidelity)))


def _words(review: SearchReview, record: TrialRecord) -> str:
    assert record.fidelity is not None and record.predicted_latency_ms is not None
    fidelity = review.objective.format(review.objective.of(record.fidelity))
    return f"{format_ms(record.predicted_latency_ms)} ms predicted, fidelity {fidelity}"


def _order(value: Any) -> tuple[bool, Any]:
    return (isinstance(value, str), value)


def _shown(value: float) -> str:
    return format_tick(float(f"{value:.2g}")) if abs(value - round(value)) > 1e-9 else format_tick(round(value))
