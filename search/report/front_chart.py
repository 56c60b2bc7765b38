# SPDX-License-Identifier: Apache-2.0
"""The SVG chart of a front: students and references, and the trials as faint dots; latency against fidelity.

The x axis is log latency, the y axis -log2 of the error (`search.records.objective`), so that 0.98 and 0.99 are as far
apart as 0.90 and 0.95. A perfect fidelity (the teacher's) has no finite height: it is drawn on the upper edge, above a
broken axis. Colours are CSS variables that follow the browser's light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from search.optimiser.pareto import is_finite
from search.records.formatting import describe_profile, format_ms, format_tick
from search.records.front import Front, MeasuredStudent
from search.records.objective import Objective
from search.records.trial import TrialPoint
from search.report.svg import CHARACTER_PX, step_curve, text, vertical_title


@dataclass(frozen=True, slots=True)
class Frame:
    """The size of a chart and of the margins around its axes, in pixels."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    ids: str
    """Prefix of the ids of marks."""

    @property
    def end(self) -> int:
        """The right end of the x axis."""
        return self.width - self.right

    @property
    def most_ticks(self) -> int:
        """Ticks of the x axis whose numbers do not touch."""
        return (self.end - self.left) // 48

    @property
    def floor(self) -> int:
        """The y of the x axis."""
        return self.height - self.bottom


WIDE = Frame(920, 580, 72, 28, 88, 62, "mark-")
NARROW = Frame(360, 480, 66, 12, 134, 64, "narrow-mark-")  # for a phone: letters keep their size
HEADING = 24  # pixels of the heading; without one the view box starts below it
TIMES = "\N{MULTIPLICATION SIGN}"
BREAK = 26  # pixels between the upper edge, where a perfect fidelity is drawn, and the highest finite one

FIDELITY_TICKS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999)
_TRIAL_STATES = ("complete", "pruned", "failed", "interrupted", "running", "refused")

CHART_CSS = Path(__file__).with_name("assets") / "chart.css"


def front_chart(
    front: Front, trials: Sequence[TrialPoint] = (), *, style: str = "", heading: str = "", frame: Frame = WIDE
) -> str:
    """The chart as an `<svg>` element.

    Each mark has a `data-key`, which the report's script uses, and the id `frame.ids` + key, the target of links.
    """
    marks = [_Mark("student", f"s{i}", entry) for i, entry in enumerate(front.students)]
    marks += [_Mark("dominated", f"d{i}", entry) for i, entry in enumerate(front.dominated)]
    marks += [_Mark("reference", f"r{i}", entry) for i, entry in enumerate(front.references)]
    marks = [mark for mark in marks if is_finite(front.point_of(mark.entry))]
    dots = [(i, trial, *point) for i, trial in enumerate(trials) if (point := trial_position(trial)) is not None]
    if not marks and not dots:
        return f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {frame.width} 80">{style}' + (
            '<text class="label" x="20" y="44">No student and no reference has been measured yet.</text></svg>'
        )
    trial_points = [(latency_ms, fidelity) for _, _, latency_ms, fidelity in dots]
    points = [front.point_of(mark.entry) for mark in marks] or trial_points
    axes = _Axes.around(points, trial_points, front.objective, frame)
    above = 0 if heading else HEADING
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart front-chart" role="group" '
        f'viewBox="0 {above} {frame.width} {frame.height - above}" aria-label="{escape(_summary(front))}" '
        f'data-left="{frame.left}" data-right="{frame.end}" '
        f'data-top="{frame.top}" data-bottom="{frame.floor}" data-low="{axes.low_ms!r}" data-high="{axes.high_ms!r}">',
        style,
        f'<rect class="paper" width="{frame.width}" height="{frame.height}"/>',
        *_grid(axes, front, heading=heading),
        *(_dot(axes, i, trial, latency_ms, fidelity) for i, trial, latency_ms, fidelity in dots),
        *_front_line(axes, front.students),
        *(_whisker(axes, mark) for mark in marks),
        *_labels(axes, marks),
        *(_symbol(axes, mark) for mark in reversed(marks)),
        *_legend(front, trials, frame),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class _Mark:
    kind: str
    key: str
    entry: MeasuredStudent


@dataclass(frozen=True, slots=True)
class _Axes:
    """The axes: from (latency, fidelity) to pixels."""

    frame: Frame
    objective: Objective
    low_ms: float
    high_ms: float
    low_step: float
    high_step: float

    @classmethod
    def around(
        cls,
        points: Sequence[tuple[float, float]],
        dots: Sequence[tuple[float, float]],
        objective: Objective,
        frame: Frame,
    ) -> _Axes:
        """Axes that include all points; trials (`dots`) extend the latency range only."""
        latencies = [latency_ms for latency_ms, _ in (*points, *dots)]
        steps = [negative_log2_error(objective.error(fidelity)) for _, fidelity in points]
        steps = [step for step in steps if step < MAX_NEGATIVE_LOG2_ERROR] or [1.0]
        margin = max(0.35, 0.07 * (max(steps) - min(steps)))
        ratio = max(1.35, (max(latencies) / min(latencies)) ** 0.05)
        low_ms, high_ms = min(latencies) / ratio, max(latencies) * ratio
        return cls(frame, objective, low_ms, high_ms, max(0.0, min(steps) - margin), max(steps) + margin)

    def of(self, entry: MeasuredStudent) -> tuple[float, float]:
        latency_ms, fidelity = self.objective.point(entry.latency_ms, entry.fidelity)
        return self.x(latency_ms), self.y(fidelity)

    def x(self, latency_ms: float) -> float:
        share = math.log(latency_ms / self.low_ms) / math.log(self.high_ms / self.low_ms)
        return self.frame.left + share * (self.frame.end - self.frame.left)

    def step(self, fidelity: float) -> float:
        return negative_log2_error(self.objective.error(fidelity))

    def y(self, fidelity: float) -> float:
        step = self.step(fidelity)
        if step > self.high_step:
            return float(self.frame.top)
        share = (step - self.low_step) / (self.high_step - self.low_step)
        return self.frame.floor - share * (self.frame.floor - self.frame.top - BREAK)


MAX_NEGATIVE_LOG2_ERROR = 13.0  # an error of about 0.0001: less is rounding


def negative_log2_error(error: float) -> float:
    """-log2 of an error above 0; 0 for an error of 1 or more."""
    return -math.log2(min(error, 1.0))


def trial_position(trial: TrialPoint) -> tuple[float, float] | None:
    """(predicted latency in ms, fidelity) of a trial; None if either is missing or not finite."""
    if trial.latency_ms is None or trial.fidelity is None:
        return None
    point = (trial.latency_ms, trial.fidelity)
    return point if is_finite(point) and trial.latency_ms > 0.0 else None


def _grid(axes: _Axes, front: Front, *, heading: str) -> list[str]:
    frame = axes.frame
    left, top, bottom, right = frame.left, frame.top, frame.floor, frame.end
    parts = [f'<text class="heading" x="{left}" y="26">{escape(heading)}</text>'] if heading else []
    for latency_ms in latency_ticks(axes.low_ms, axes.high_ms, most=frame.most_ticks):
        x = axes.x(latency_ms)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(text(x, bottom + 18, format_tick(latency_ms), anchor="middle"))
    shown: list[float] = []
    for fidelity in FIDELITY_TICKS:
        y = axes.y(fidelity)
        if axes.low_step <= axes.step(fidelity) <= axes.high_step and all(abs(y - other) >= 22 for other in shown):
            shown.append(y)
            parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(text(left - 10, y + 4, format_tick(fidelity), anchor="end"))
    y = top + BREAK / 2
    parts += [
        f'<line class="grid" x1="{left}" x2="{right}" y1="{top}" y2="{top}"/>',
        f'<text class="tick" x="{left - 10}" y="{top + 4}" text-anchor="end">1</text>',
        f'<path class="axis" d="M{left} {top}V{y - 2}M{left - 5} {y + 1}l10 -6M{left - 5} {y + 6}l10 -6"/>',
        f'<path class="axis" d="M{left} {y + 3}V{bottom}H{right}"/>',
        *_latency_title(frame, describe_profile(front.profile)),
        vertical_title(min(18, left - 52), (top + bottom) / 2, f"fidelity: {axes.objective.label}"),
    ]
    for speedup, x in _speedups(axes, front):
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 4}" y2="{top}"/>')
        parts.append(text(x, top - 9, f"{format_tick(speedup)}x", anchor="middle"))
    return parts


def _latency_title(frame: Frame, profile: str) -> list[str]:
    """The title of the x axis, on two lines if it is too long for one."""
    words = ["latency in milliseconds (log scale)", profile]
    if len(": ".join(words)) * CHARACTER_PX < frame.end - frame.left:
        words = [": ".join(words)]
    middle, first = (frame.left + frame.end) / 2, frame.height - 16 * len(words)
    return [text(middle, first + 16 * i, line, style="title", anchor="middle") for i, line in enumerate(words)]


def latency_ticks(low_ms: float, high_ms: float, *, most: int = 11) -> list[float]:
    """Tick values of a logarithmic latency axis in ms, at most `most`, if powers of ten are no more."""
    decades = range(math.floor(math.log10(low_ms)), math.ceil(math.log10(high_ms)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if low_ms <= tick <= high_ms]
        if len(ticks) <= most:
            break
    return ticks


def _speedups(axes: _Axes, front: Front) -> list[tuple[float, float]]:
    """(speed-up, x in pixels) of the upper axis's ticks; empty if there is no entry."""
    entries = (*front.students, *front.dominated, *front.references)
    if not entries:
        return []
    entry = entries[0]
    teacher_ms = entry.latency_ms * entry.speedup
    ticks = latency_ticks(teacher_ms / axes.high_ms, teacher_ms / axes.low_ms, most=axes.frame.most_ticks)
    return [(tick, axes.x(teacher_ms / tick)) for tick in ticks]


def _front_line(axes: _Axes, students: Sequence[MeasuredStudent]) -> list[str]:
    """The Pareto front as a step curve, with the dominated area shaded."""
    if not students:
        return []
    bottom, right = axes.frame.floor, axes.frame.end
    corners = [axes.of(entry) for entry in students]
    curve, (x, _) = step_curve(corners, right), corners[0]
    return [
        f'<path class="below" d="{curve}V{bottom}H{x:.1f}Z"/>',
        f'<path class="front" d="{curve}"/>',
    ]


def _dot(axes: _Axes, i: int, trial: TrialPoint, latency_ms: float, fidelity: float) -> str:
    if axes.step(fidelity) < axes.low_step:
        return ""
    state = trial.state if trial.state in _TRIAL_STATES else "running"
    radius = 3.2 if state == "complete" else 2.6
    words = escape(f"{trial.name}: {trial.student}, {trial.state}")
    return (
        f'<circle class="trial {state}" id="{axes.frame.ids}t{i}" data-key="t{i}" cx="{axes.x(latency_ms):.1f}" '
        f'cy="{axes.y(fidelity):.1f}" r="{radius}"><title>{words}</title></circle>'
    )


def _whisker(axes: _Axes, mark: _Mark) -> str:
    low_ms, high_ms = mark.entry.latency_interval_ms
    if not (0.0 < low_ms <= high_ms < math.inf):
        return ""
    low, high = max(axes.x(low_ms), axes.frame.left), min(axes.x(high_ms), axes.frame.end)
    _, y = axes.of(mark.entry)
    path = f"M{low:.1f} {y:.1f}H{high:.1f}M{low:.1f} {y - 3:.1f}v6M{high:.1f} {y - 3:.1f}v6"
    return f'<path class="whisker {mark.kind}" d="{path}"/>'


def _symbol(axes: _Axes, mark: _Mark) -> str:
    x, y = axes.of(mark.entry)
    shape = '<circle r="6.5"/>'
    if mark.kind == "reference":
        shape = '<path d="M0 -7.5L7.5 0L0 7.5L-7.5 0Z"/>'
    elif mark.kind == "dominated":
        shape = '<circle r="5.5"/><path d="M-3.5 3.5L3.5 -3.5"/>'
    entry, objective = mark.entry, axes.objective
    value = objective.format(objective.of(entry.fidelity))
    words = f"{mark.kind} {entry.name}: {format_ms(entry.latency_ms)} ms, fidelity {value}"
    return (
        f'<g class="mark {mark.kind}" id="{axes.frame.ids}{mark.key}" data-key="{mark.key}" '
        f'transform="translate({x:.1f} {y:.1f})">'
        f'<title>{escape(words)}</title><circle class="ring" r="11"/>{shape}</g>'
    )


# Label positions (dx, dy, text-anchor) in order of preference: nothing is drawn above the front, little below it.
_ABOVE = ((-9, -9, "end"), (0, -14, "middle"), (-14, 4, "end"), (10, 18, "start"), (14, 4, "start"))
_BELOW = (
    *((11, 17, "start"), (14, 4, "start"), (0, 24, "middle")),
    *((-11, 17, "end"), (-9, -11, "end"), (9, -11, "start")),
)

_Box = tuple[float, float, float, float]


def _labels(axes: _Axes, marks: Sequence[_Mark]) -> list[str]:
    """A label for each mark, at the first position that overlaps no other label or mark; none if all overlap."""
    taken: list[_Box] = []
    for mark in marks:
        x, y = axes.of(mark.entry)
        taken.append((x - 8, y - 8, x + 8, y + 8))
    parts = []
    for mark in marks:
        x, y = axes.of(mark.entry)
        words = short_name(mark.entry) if mark.kind != "reference" else mark.entry.name.replace("-", " ")
        width = len(words) * CHARACTER_PX
        for dx, dy, anchor in _ABOVE if mark.kind == "student" else _BELOW:
            left = x + dx - (width if anchor == "end" else width / 2 if anchor == "middle" else 0.0)
            box = (left, y + dy - 11, left + width, y + dy + 3)
            if (
                left > axes.frame.left
                and box[2] < axes.frame.width - 4
                and not any(_overlap(box, other) for other in taken)
            ):
                taken.append(box)
                parts.append(
                    f'<text class="label {mark.kind}" x="{x + dx:.1f}" y="{y + dy:.1f}" text-anchor="{anchor}">'
                    f"{escape(words)}</text>"
                )
                break
    return parts


def short_name(entry: MeasuredStudent) -> str:
    """Depth and width as `3 x 384`, with a multiplication sign for the x; `static` for depth 0."""
    encoder = entry.spec.get("encoder")
    return f"{encoder['n_layers']} {TIMES} {encoder['width']}" if encoder else "static"


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _legend(front: Front, trials: Sequence[TrialPoint], frame: Frame) -> list[str]:
    rows = [("mark student", "on the front", '<circle r="5"/>')] if front.students else []
    if front.dominated:
        rows.append(("mark dominated", "a reference is better", '<circle r="4.5"/><path d="M-3 3L3 -3"/>'))
    if front.references:
        rows.append(("mark reference", "reference", '<path d="M0 -6L6 0L0 6L-6 0Z"/>'))
    if any(trial_position(trial) is not None for trial in trials):
        rows.append(("", "brief trial, predicted latency: complete", '<circle class="trial complete" r="3.2"/>'))
        rows.append(("", "not complete", '<circle class="trial pruned" r="2.6"/>'))
    parts, x, y = [], frame.left + 6.0, HEADING + 24
    for kind, words, shape in rows:
        if x > frame.left + 6.0 and x + len(words) * 5.9 + 12 > frame.end:
            x, y = frame.left + 6.0, y + 20
        parts.append(f'<g class="{kind}" transform="translate({x:.0f} {y})">{shape}</g>')
        parts.append(f'<text class="label" x="{x + 12:.0f}" y="{y + 4}">{words}</text>')
        x += len(words) * 5.9 + 36
    return parts


def _summary(front: Front) -> str:
    return (
        f"Latency against fidelity: {len(front.students)} front students and {len(front.references)} references "
        f"of the study {front.study}; the same numbers are in the table"
    )
