# SPDX-License-Identifier: Apache-2.0
"""The SVG chart of the front of the brief trials with its gaps, their trials, and predictions for untried points.

The axes are those of the front's chart, the numbers are not: latencies are predicted, errors are those of the brief
trials. A trial that is not complete is drawn at its predicted final error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from string import ascii_uppercase

from search.records.formatting import format_ms, format_tick
from search.records.trial import TrialState
from search.report.front_chart import FIDELITY_TICKS, latency_ticks, negative_log2_error
from search.report.gaps import GapContents
from search.report.review import SearchReview, TrialPosition
from search.report.svg import count, drawing, line, linear, step_curve, text, tip, vertical_title
from spaces.student_words import describe

WIDTH, HEIGHT = 1120, 430
LEFT, RIGHT, TOP, BOTTOM = 66, 24, 44, 52
MAX_SHOWN = 8


def shown_gaps(review: SearchReview) -> list[tuple[str, int, GapContents]]:
    """(letter, index in `review.gaps`, gap) of the wide gaps, the largest first, at most `MAX_SHOWN`."""
    wide = [(i, each) for i, each in enumerate(review.gaps) if each.gap.wide]
    wide.sort(key=lambda pair: -pair[1].gap.area)
    return [(letter, i, each) for letter, (i, each) in zip(ascii_uppercase, wide[:MAX_SHOWN], strict=False)]


def gaps_chart(review: SearchReview) -> str:
    """The chart as an `<svg>` element; requires at least one complete trial."""
    shown = shown_gaps(review)
    front = sorted((position for position in review.positions if position.on_front), key=lambda position: position.cost)
    costs = [position.cost for position in review.positions]
    costs += [cost for _, _, each in shown for cost in (each.gap.low_cost, each.gap.high_cost)]
    margin = max(0.3, 0.04 * (max(costs) - min(costs)))
    low_cost, high_cost = min(costs) - margin, max(costs) + margin
    steps = [negative_log2_error(position.error) for position in front]
    steps += [negative_log2_error(each.best.error) for _, _, each in shown if each.best is not None]
    low, high = max(0.0, min(steps) - 0.4), max(steps) + 0.9
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    x = linear(low_cost, high_cost, LEFT, right)
    scale = linear(low, high, bottom, TOP)

    def y(error: float) -> float:
        return min(float(bottom), max(float(TOP), scale(negative_log2_error(error))))

    parts = []
    for latency_ms in latency_ticks(2.0**low_cost, 2.0**high_cost):
        at = x(math.log2(latency_ms))
        parts += [line(at, TOP, at, bottom), text(at, bottom + 18, format_tick(latency_ms), anchor="middle")]
    drawn: list[float] = []
    for fidelity in FIDELITY_TICKS:
        step = negative_log2_error(review.objective.error(fidelity))
        at = scale(step)
        if low <= step <= high and all(abs(at - other) >= 22 for other in drawn):
            drawn.append(at)
            parts += [line(LEFT, at, right, at), text(LEFT - 9, at + 4, format_tick(fidelity), anchor="end")]
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    for letter, _, each in shown:
        gap = each.gap
        parts += _gap(review, letter, each, x(gap.low_cost), x(gap.high_cost), y(gap.low_error), y(gap.high_error))
    corners = [(x(position.cost), y(position.error)) for position in front]
    if corners:
        parts.append(f'<path class="front" d="{step_curve(corners, right)}"/>')
    for position in sorted(review.positions, key=lambda position: position.on_front):
        if position.on_front or negative_log2_error(position.error) >= low:
            parts.append(_dot(review, position, x(position.cost), y(position.error)))
    for letter, i, each in shown:
        if each.best is not None and negative_log2_error(each.best.error) >= low:
            best = each.best
            at, facts = x(best.cost), tip([f"gap {letter}: untried", *candidate_facts(review, i)])
            top_y, bottom_y = y(best.low_error), y(best.high_error)
            parts.append(
                f'<g class="candidate tip"><path d="M{at:.1f} {top_y:.1f}V{bottom_y:.1f}"/>'
                f'<circle cx="{at:.1f}" cy="{y(best.error):.1f}" r="4.5"/>{facts}</g>'
            )
    parts += _legend(bool(shown), any(each.best for _, _, each in shown), len(front) < len(review.positions))
    label = "predicted latency in milliseconds (log scale)"
    parts.append(text((LEFT + right) / 2, HEIGHT - 12, label, style="title", anchor="middle"))
    parts.append(vertical_title(16, (TOP + bottom) / 2, f"fidelity of brief trials: {review.objective.label}"))
    listed = ", ".join(f"{letter} between {_between(each)}" for letter, _, each in shown) or "none"
    return drawing(
        "gaps",
        parts,
        width=WIDTH,
        height=HEIGHT,
        title="The front of the brief trials and its gaps",
        description=f"{count(len(front), 'student')} on the front; wide gaps: {listed}.",
    )


def candidate_facts(review: SearchReview, number: int) -> list[str]:
    """Lines of text on a gap's best candidate: student, latency, fidelity, probability; empty if there is none."""
    best = review.gaps[number].best
    if best is None:
        return []
    return [
        review.students[number],
        f"{format_ms(2.0**best.cost)} ms, fidelity {review.fidelity_at(best.error)} "
        f"({review.fidelity_at(best.high_error)} to {review.fidelity_at(best.low_error)})",
        f"on the front with a probability of {_format_probability(best.probability)}",
    ]


def _format_probability(probability: float) -> str:
    return "less than 1%" if probability < 0.01 else "more than 99%" if probability > 0.99 else f"{probability:.0%}"


def _between(each: GapContents) -> str:
    return f"{format_ms(2.0**each.gap.low_cost)} and {format_ms(2.0**each.gap.high_cost)} ms"


def _gap(review: SearchReview, letter: str, each: GapContents, x1: float, x2: float, y1: float, y2: float) -> list[str]:
    facts = (
        f"gap {letter}",
        f"between {_between(each)}, fidelity {review.fidelity_at(each.gap.high_error)} to "
        f"{review.fidelity_at(each.gap.low_error)}",
        f"{count(len(each.tried), 'trial')} there",
    )
    return [
        f'<g class="tip"><rect class="gap" x="{x1:.1f}" y="{y1:.1f}" width="{max(1.0, x2 - x1):.1f}" '
        f'height="{max(1.0, y2 - y1):.1f}" rx="3"/>{tip(facts)}</g>',
        text((x1 + x2) / 2, y1 + 16, letter, style="letter", anchor="middle"),
    ]


def _dot(review: SearchReview, position: TrialPosition, x: float, y: float) -> str:
    complete = position.record.state is TrialState.COMPLETE
    style = "step gained" if position.on_front else "trial complete" if complete else "trial pruned"
    radius = 4.5 if position.on_front else 3.2 if complete else 2.8
    verb = "fidelity" if complete else f"{position.record.state.value}, predicted to reach"
    facts = (
        f"{position.record.name}: {describe(position.record.spec)}",
        f"{format_ms(2.0**position.cost)} ms predicted, {verb} {review.fidelity_at(position.error)}",
    )
    return f'<circle class="{style} tip" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">{tip(facts)}</circle>'


def _legend(gaps: bool, candidates: bool, others: bool) -> Sequence[str]:
    rows = [('<circle class="step gained" r="4.5"/>', "front of the brief trials")]
    if others:
        rows.append(('<circle class="trial complete" r="3.2"/>', "complete, not on the front"))
        rows.append(('<circle class="trial pruned" r="2.8"/>', "not complete: at its predicted final error"))
    if gaps:
        rows.append(('<rect class="gap" x="-7" y="-6" width="14" height="12" rx="2"/>', "wide gap"))
    if candidates:
        rows.append(('<g class="candidate"><path d="M0 -8V8"/><circle r="4"/></g>', "best untried, with 90% interval"))
    parts, at = [], LEFT + 8.0
    for shape, words in rows:
        parts.append(f'<g transform="translate({at:.0f} 16)">{shape}</g>')
        parts.append(text(at + 13, 20, words, style="label"))
        at += len(words) * 6.3 + 36
    return parts
