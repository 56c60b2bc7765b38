# SPDX-License-Identifier: Apache-2.0
"""Writes the HTML report of a study, one self-contained interactive page: its front and its search.

Charts, tables and all numbers are in the HTML; the script adds tooltips, details, the latency budget and sorting. Text
from a study is escaped here, and the script writes text nodes only, so no name can become markup.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from search.console.progress import Bar, Reporter
from search.records.formatting import describe_profile, format_megabytes, format_ms, format_speedup
from search.records.front import Front, MeasuredStudent
from search.records.front_table import COLUMNS, Column, baseline_of, notes_of, words_of
from search.records.objective import BASELINE, MEASUREMENTS, objective_of
from search.records.selection import BALANCED, FASTEST, MOST_FAITHFUL
from search.records.trial import TrialPoint
from search.report.front_chart import CHART_CSS, NARROW, front_chart, short_name, trial_position
from search.report.load import read_search
from search.report.review import SearchReview, review_search
from search.report.search_section import search_section, trials_section
from search.report.svg import count
from search.report.trial_panels import row_id, trial_panels
from search.storage.store import Store
from search.storage.streams import is_stream, opened_output
from search.storage.study_state import STUDY, StudyState
from search.tracking.registry import load_front, load_trials
from spaces.errors import UserError
from spaces.student import StudentSpec, Switch

_PAGE = CHART_CSS.parent
_SLOT = re.compile(r"\{\{(\w+)\}\}")

_MEGABYTES = Column(
    heading="MB", text=lambda _, entry: format_megabytes(entry.n_bytes), value=lambda entry: float(entry.n_bytes)
)
_COLUMNS = (*(column for column in COLUMNS[:-1] if column.heading != "version"), _MEGABYTES, COLUMNS[-1])

_NO_ROWS = f'<tr><td colspan="{len(_COLUMNS)}">No student and no reference has been measured at the end yet.</td></tr>'


def _no_step(what: str) -> Bar:
    return lambda done, total: None


def write_report(store: Store, name: str | None, out: Path, *, reporter: Reporter | None = None) -> Path:
    """Write the page of study `name` (None: the latest) to `out`, replacing an older page; returns the path.

    `out` is a file, or `-` for standard output. `reporter` is told the steps. Raises ValueError, before anything is
    written, for an unknown study or if `out` cannot be such a file.
    """
    if not is_stream(out) and (out.is_dir() or not out.parent.is_dir()):
        raise UserError(f"a report is a file in a folder that exists, which {out} is not; name it such as front.html")
    step = _no_step if reporter is None else reporter.step
    step("reading the front")
    front = _front_or_empty(store, name)
    review = review_of(store, front, step=step)
    trials: Sequence[TrialPoint] = ()
    if review is None:
        trials = load_trials(store, front.study, front.objective)
    step("writing the page")
    page = report_html(front, trials, review)
    with opened_output(out) as file:
        file.write(page.encode())
    return out


def _front_or_empty(store: Store, name: str | None) -> Front:
    """The registered front of a study, or an empty one if its search has trials but no front yet."""
    try:
        return load_front(store, name)
    except ValueError:
        study = None if name is None else StudyState.of(store, name).read(STUDY)
        if name is None or study is None:
            raise
        objective = objective_of(study.objective)
        if not load_trials(store, name, objective):
            raise
        sources = [teacher.source for teacher in study.teachers]
        return Front(
            study=name,
            teacher=" + ".join(source.partition(":")[2] or source for source in sources),
            profile=study.profile,
            objective=objective,
            references=(),
            students=(),
        )


def review_of(store: Store, front: Front, *, step: Callable[[str], Bar] = _no_step) -> SearchReview | None:
    """The review of the study's search; None if its journal is missing or cannot be read. `step` is told the steps."""
    step("reading the trials")
    teacher = StudentSpec.from_json(dict(front.references[0].spec)) if front.references else None
    search = read_search(store, front.study, teacher=teacher)
    if search is None:
        return None
    bar = step(f"analysing {count(len(search.trials), 'trial')}")
    return review_search(search, progress=bar)


def report_html(front: Front, trials: Sequence[TrialPoint] = (), review: SearchReview | None = None) -> str:
    """The page as HTML. With a review it has a section on the search, and its trials are the review's, not `trials`."""
    entries = _keyed(front)
    if review is not None:
        trials = [TrialPoint.of(record, review.objective) for record in review.records]
    keys = {trial.name: f"t{i}" for i, trial in enumerate(trials)}
    slots = {
        "title": escape(f"{front.study}: students of {front.teacher}"),
        "study": escape(front.study),
        "subtitle": _subtitle(front, trials),
        "css": CHART_CSS.read_text("utf-8") + (_PAGE / "page.css").read_text("utf-8"),
        "cards": "\n".join(_cards(front, entries)),
        "chart": front_chart(front, trials),
        "narrow": front_chart(front, trials, frame=NARROW),
        "search": "" if review is None else search_section(review, lambda name: row_id(name) if name in keys else None),
        "trials": "" if review is None else trials_section(review, [entry.name for entry in front.students], keys.get),
        "head": "".join(_head(column) for column in _COLUMNS),
        "rows": "\n".join(_row(key, kind, entry) for key, kind, entry in entries) or _NO_ROWS,
        "objective": escape(front.objective.label),
        "perfect": f"{front.objective.high:g}",
        "baseline": baseline_of(front),
        "data": _script_json(_data(front, entries, trials, review)),
        "script": (_PAGE / "page.js").read_text("utf-8"),
    }
    template = (_PAGE / "page.html").read_text("utf-8")
    # One pass, so inserted text that looks like a slot is not replaced.
    return _SLOT.sub(lambda match: slots[match[1]], template)


def _keyed(front: Front) -> list[tuple[str, str, MeasuredStudent]]:
    """(key, kind, entry) of all entries, with the keys of the chart's marks."""
    entries = [(f"s{i}", "student", entry) for i, entry in enumerate(front.students)]
    entries += [(f"d{i}", "dominated", entry) for i, entry in enumerate(front.dominated)]
    return entries + [(f"r{i}", "reference", entry) for i, entry in enumerate(front.references)]


def _subtitle(front: Front, trials: Sequence[TrialPoint]) -> str:
    n_pruned = sum(trial.state == "pruned" for trial in trials)
    students = "1 student" if len(front.students) == 1 else f"{len(front.students)} students"
    words = f"{students} of {front.teacher} that nothing beats in both latency and fidelity"
    if not front.students:
        words = f"No student of {front.teacher} has been measured at the end yet"
    if trials:
        words += f", out of {count(len(trials), 'trial')} ({n_pruned} pruned)"
    return escape(f"{words}. Latency: {describe_profile(front.profile)}.")


def _cards(front: Front, entries: Sequence[tuple[str, str, MeasuredStudent]]) -> list[str]:
    cards = []
    for alias, words in ((FASTEST, "fastest"), (BALANCED, "balanced"), (MOST_FAITHFUL, "most faithful")):
        for key, _, entry in entries:
            if alias in entry.aliases:
                cards.append(
                    f'<button type="button" class="card" data-key="{key}"><span class="eyebrow">{words}</span>'
                    f"<strong>{escape(short_name(entry))}</strong>"
                    f"<span>{format_speedup(entry.speedup)} the teacher's speed</span>"
                    f"<span>fidelity {front.objective.format(front.fidelity_of(entry))}</span></button>"
                )
    return cards


def _kind(column: Column) -> str:
    return "text" if column.value is None else "number"


def _head(column: Column) -> str:
    return f'<th scope="col" class="{_kind(column)}"><button type="button">{escape(column.heading)}</button></th>'


def _row(key: str, kind: str, entry: MeasuredStudent) -> str:
    cells = []
    for column in _COLUMNS[1:]:
        text = column.text(kind, entry)
        value = text if column.value is None else str(column.value(entry))
        cells.append(f'<td class="{_kind(column)}" data-sort="{escape(value)}">{escape(text)}</td>')
    name = f'<button type="button" data-key="{key}">{escape(entry.name)}</button>'
    head = f'<th scope="row" data-sort="{escape(entry.name)}">{name}</th>'
    return f'<tr class="{kind}" data-key="{key}">{head}{"".join(cells)}</tr>'


def _bars(entry: MeasuredStudent) -> list[tuple[str, float, str, float | None]]:
    """(heading, value, text, constant-vector baseline or None) of every measurement."""
    values = [(each, each.read(entry.fidelity)) for each in MEASUREMENTS]
    baseline = entry.fidelity.constant_baseline
    return [
        (each.heading, value, each.format(value), baseline if each.field == BASELINE else None)
        for each, value in values
    ]


def _data(
    front: Front,
    entries: Sequence[tuple[str, str, MeasuredStudent]],
    trials: Sequence[TrialPoint],
    review: SearchReview | None,
) -> dict[str, Any]:
    """The data of tooltips and details by mark key, for the script."""
    shown: dict[str, Any] = {}
    for key, kind, entry in entries:
        low_ms, high_ms = entry.latency_interval_ms
        shown[key] = {
            "kind": kind,
            "name": entry.name,
            "version": entry.version,
            "short": short_name(entry),
            "words": words_of(entry),
            "notes": ", ".join(notes_of(kind, entry)),
            "latency_ms": entry.latency_ms,
            "latency": f"{format_ms(entry.latency_ms)} ms",
            "interval": f"{format_ms(low_ms)} to {format_ms(high_ms)} ms",
            "speedup": format_speedup(entry.speedup),
            "parameters": f"{entry.n_parameters:,}",
            "size": f"{format_megabytes(entry.n_bytes)} MB",
            "fidelity": entry.fidelity.to_json(),
            "value": front.fidelity_of(entry),
            "shown": front.objective.format(front.fidelity_of(entry)),
            "bars": _bars(entry),
            "spec": json.dumps(dict(entry.spec), indent=2),
            "commands": _commands(front, entry),
        }
    panels = [{}] * len(trials) if review is None else trial_panels(review)
    for i, (trial, panel) in enumerate(zip(trials, panels, strict=True)):
        position = trial_position(trial)
        if position is not None or panel:
            shown[f"t{i}"] = {
                "kind": "trial",
                "name": trial.name,
                "words": trial.student,
                "notes": f"{trial.state}: {trial.outcome}" if trial.outcome else trial.state,
                "latency": "" if position is None else f"{format_ms(position[0])} ms predicted",
                "shown": "" if position is None else front.objective.format(position[1]),
                "tokens": f"{trial.n_tokens:,}",
                **panel,
            }
    return shown


def _commands(front: Front, entry: MeasuredStudent) -> list[tuple[str, str]]:
    if entry.version is None:
        return []
    spec = StudentSpec.from_json(dict(entry.spec))
    switch = spec.encoder is not None and isinstance(spec.encoder.feed_forward, Switch)
    model = f"{front.study}/{entry.version}"
    budget_ms = _rounded_up(entry.latency_ms)
    return [
        ("select it by its latency", f"understudy select {front.study} --max-latency-ms {budget_ms:g}"),
        ("export it", f"understudy export {model} OUT --format {'onnx' if switch else 'sentence-transformers'}"),
        ("embed a file with it", f"understudy embed {model} FILE"),
        ("load it in Python", f'mlflow.pyfunc.load_model("models:/{model}").predict(["a sentence"])'),
    ]


def _rounded_up(value: float) -> float:
    """The value rounded up to three significant digits."""
    digit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / digit - 1e-9) * digit:.3g}")


def _script_json(value: Any) -> str:
    """JSON that is safe inside a `<script>` element; numbers that are not finite become null."""
    return (
        json.dumps(_finite_or_null(value), allow_nan=False)
        .replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
    )


def _finite_or_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite_or_null(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite_or_null(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
