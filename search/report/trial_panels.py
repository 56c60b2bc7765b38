# SPDX-License-Identifier: Apache-2.0
"""The report's table of all trials, and what the panel of each shows: parameters, learning curve, end, log.

The table is complete without a script; the script opens a trial's panel, and `#trial-0007` in the page's address too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from search.records.formatting import format_ms, format_tick
from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import TrialRecord, TrialState
from search.report.review import SearchReview
from search.report.svg import duration
from spaces.student_words import describe

_WHY = {
    OutcomeKind.COMPLETE: "It was trained over the whole budget.",
    OutcomeKind.GRADUATED: "It was distilled for longer.",
    OutcomeKind.BELOW_UNTRAINED: "Training made it worse than it was before, so it was not registered.",
    OutcomeKind.DOMINATED: "Trials that are no slower are predicted to end with less error, and a new trial promises "
    "more for the same tokens.",
    OutcomeKind.PRUNED: "The study's pruner ended it.",
    OutcomeKind.DUPLICATE: "Another trial has the same student and recipe.",
    OutcomeKind.HOPELESS: "It is predicted to be no faster than the teacher.",
    OutcomeKind.CANNOT_BE_BUILT: "No student has such dimensions.",
    OutcomeKind.NOT_FINITE: "A loss, a vector or a fidelity was infinite or not a number.",
    OutcomeKind.OUT_OF_MEMORY: "Its process got no more memory.",
    OutcomeKind.NO_SPACE: "The disk was full.",
    OutcomeKind.HUNG: "It did not report within the limit.",
    OutcomeKind.WORKER_DIED: "Its process ended while its node went on.",
    OutcomeKind.NODE_DIED: "Its process ended with its node.",
    OutcomeKind.WORKER_UNREACHABLE: "The connection to its process broke.",
    OutcomeKind.EXCEPTION: "Its process raised an exception.",
    OutcomeKind.TIME_BUDGET: "The time was used up.",
    OutcomeKind.INTERRUPTED: "The command was interrupted.",
    OutcomeKind.DRIVER_ENDED: "The process that searched was killed.",
    OutcomeKind.CHECKPOINT_NOT_FOUND: "What was saved could not be read.",
    OutcomeKind.WORKERS_ENDED: "Its graduation stopped in this command.",
}


def trial_panels(review: SearchReview) -> list[dict[str, Any]]:
    """For each trial, in the order of `review.records`, what its panel shows beyond its mark's tooltip."""
    return [_panel(review, record) for record in review.records]


def _panel(review: SearchReview, record: TrialRecord) -> dict[str, Any]:
    facts = {
        "predicted latency": ""
        if record.predicted_latency_ms is None
        else f"{format_ms(record.predicted_latency_ms)} ms",
        "training tokens": f"{record.n_tokens:,}" if record.rungs else "",
        "time": duration(record.seconds) if record.rungs else "",
        "speed": f"{record.tokens_per_s:,.0f} tokens/s" if record.rungs else "",
        "seed": str(record.seed),
        "continues": "" if record.continues is None else f"trial-{record.continues:04d}",
    }
    losses = {rung.n_tokens: f"{rung.loss:.4f}" for rung in record.rungs}
    curve = [
        {
            "tokens": n_tokens,
            "value": (value := review.objective.of(fidelity)),
            "shown": review.objective.format(value),
            "loss": losses.get(n_tokens, ""),
        }
        for n_tokens, fidelity in record.curve
    ]
    return {
        "state": record.state.value,
        "facts": {name: value for name, value in facts.items() if value},
        "parameters": {name: format_parameter(value) for name, value in record.point.items()},
        "curve": curve,
        "why": why(record.outcome),
        "rivals": [] if record.outcome is None else [f"trial-{number:04d}" for number in record.outcome.rivals],
        "log": review.errors.get(record.name, ""),
    }


def why(outcome: Outcome | None) -> str:
    """Why a trial ended, in sentences."""
    if outcome is None:
        return "It has not ended."
    meaning = _WHY.get(outcome.kind, "")
    details = str(outcome) if outcome.kind is OutcomeKind.EXCEPTION else outcome.details
    return " ".join(part for part in (meaning, f"{details[:1].upper()}{details[1:]}." if details else "") if part)


def format_parameter(value: Any) -> str:
    """The value of a dimension: four digits of a number, `yes` and `no`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format_tick(float(f"{value:.4g}")) if isinstance(value, float) else str(value)


def trials_table(review: SearchReview, key: Callable[[str], str | None]) -> str:
    """All trials as a table whose first column opens a trial's panel; `key` gives the key of its data, by name."""
    names = list(dict.fromkeys(name for record in review.records for name in record.point))
    heads = [("trial", False), ("state", False), ("fidelity", True), ("ms", True), ("tokens", True)]
    heads += [(name.replace("_", " "), _is_number(review.records, name)) for name in names]
    head = "".join(
        f'<th scope="col" class="{"number" if number else "text"}"><button type="button">{escape(words)}</button></th>'
        for words, number in heads
    )
    rows = "".join(_row(review, record, names, key(record.name)) for record in review.records)
    return (
        '<div class="scroll tall" tabindex="0" role="region" aria-label="Table of trials"><table class="sortable">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def row_id(name: str) -> str:
    """The id of a trial's row in the table, the target of links to it."""
    return name


def _row(review: SearchReview, record: TrialRecord, names: Sequence[str], key: str | None) -> str:
    fidelity = None if record.fidelity is None else review.objective.of(record.fidelity)
    latency_ms = record.predicted_latency_ms
    cells = [
        _cell(record.state.value, record.state.value),
        _cell("" if fidelity is None else review.objective.format(fidelity), fidelity),
        _cell("" if latency_ms is None else format_ms(latency_ms), latency_ms),
        _cell(f"{record.n_tokens:,}" if record.rungs else "", record.n_tokens),
    ]
    for name in names:
        value = record.point.get(name)
        cells.append(_cell("" if value is None else format_parameter(value), value))
    title = escape(describe(record.spec))
    name = escape(record.name)
    button = name if key is None else f'<button type="button" data-key="{key}" title="{title}">{name}</button>'
    state = "" if record.state is TrialState.COMPLETE else ' class="incomplete"'
    head = f'<th scope="row" data-sort="{name}">{button}</th>'
    return f'<tr{state} id="{escape(row_id(record.name))}">{head}{"".join(cells)}</tr>'


def _cell(shown: str, value: Any) -> str:
    number = not isinstance(value, str) and not isinstance(value, bool)
    sort = "" if value is None else escape(str(value))
    return f'<td class="{"number" if number else "text"}" data-sort="{sort}">{escape(shown)}</td>'


def _is_number(records: Sequence[TrialRecord], name: str) -> bool:
    return all(_numeric(record.point, name) for record in records)


def _numeric(point: Mapping[str, Any], name: str) -> bool:
    value = point.get(name)
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
