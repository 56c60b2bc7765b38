# SPDX-License-Identifier: Apache-2.0
"""A front as rows and columns: what the terminal, the page, MLflow and Markdown show; references below the students."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from search.records.formatting import describe_profile, format_ms, format_speedup
from search.records.front import Front, MeasuredStudent
from search.records.objective import MEASUREMENTS, Measurement
from spaces.student import StudentSpec
from spaces.student_words import describe


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a front's table."""

    heading: str
    """Title of the column."""
    text: Callable[[str, MeasuredStudent], str]
    """The text of a cell from (kind, student)."""
    value: Callable[[MeasuredStudent], float] | None = None
    """The number by which the column is sorted; None for a column of text."""


def _measurement(measurement: Measurement) -> Column:
    return Column(
        heading=measurement.heading,
        text=lambda _, entry: measurement.format(measurement.read(entry.fidelity)),
        value=lambda entry: measurement.read(entry.fidelity),
    )


COLUMNS = (
    Column(heading="name", text=lambda _, entry: entry.name),
    Column(heading="version", text=lambda _, entry: entry.version or "", value=lambda entry: float(entry.version or 0)),
    Column(heading="student", text=lambda _, entry: words_of(entry)),
    Column(heading="ms", text=lambda _, entry: format_ms(entry.latency_ms), value=lambda entry: entry.latency_ms),
    Column(
        heading="95% interval",
        text=lambda _, entry: " to ".join(format_ms(end_ms) for end_ms in entry.latency_interval_ms),
        value=lambda entry: entry.latency_interval_ms[1] - entry.latency_interval_ms[0],
    ),
    Column(heading="speed-up", text=lambda _, entry: format_speedup(entry.speedup), value=lambda entry: entry.speedup),
    *(_measurement(measurement) for measurement in MEASUREMENTS),
    Column(
        heading="parameters", text=lambda _, entry: f"{entry.n_parameters:,}", value=lambda entry: entry.n_parameters
    ),
    Column(heading="notes", text=lambda kind, entry: ", ".join(notes_of(kind, entry))),
)
"""Columns of the tables on a terminal, in Markdown and, without the version, in the report."""


def rows_of(front: Front) -> Iterator[tuple[str, MeasuredStudent]]:
    """(kind, entry): front students by rising latency, then those a reference dominates, then references."""
    for entry in front.students:
        yield "student", entry
    for entry in front.dominated:
        yield "dominated", entry
    for entry in front.references:
        yield "reference", entry


def front_markdown(front: Front) -> str:
    """The front as a Markdown table under one sentence."""
    lines = [
        f"Students of **{front.teacher}**; latency: {describe_profile(front.profile)}; "
        f"fidelity: {front.objective.label}; a constant vector has a cosine of {baseline_of(front)}.",
        "",
        "| " + " | ".join(column.heading for column in COLUMNS) + " |",
        "|" + "|".join("---" if column.value is None else "---:" for column in COLUMNS) + "|",
    ]
    for kind, entry in rows_of(front):
        cells = (column.text(kind, entry).replace("|", "\\|") for column in COLUMNS)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def front_columns(front: Front) -> dict[str, list[str | float | int | None]]:
    """Column by name, numbers as numbers: the table that MLflow shows."""
    rows = list(rows_of(front))
    columns: dict[str, list[str | float | int | None]] = {
        "name": [entry.name for _, entry in rows],
        "kind": [kind for kind, _ in rows],
        "version": [entry.version or "" for _, entry in rows],
        "aliases": [", ".join(entry.aliases) for _, entry in rows],
        "student": [words_of(entry) for _, entry in rows],
        "dominated_by": [entry.dominated_by or "" for _, entry in rows],
    }
    for name in ("n_layers", "latency_ms", "speedup", "n_parameters", "n_bytes"):
        columns[name] = [getattr(entry, name) for _, entry in rows]
    columns["latency_low_ms"] = [entry.latency_interval_ms[0] for _, entry in rows]
    columns["latency_high_ms"] = [entry.latency_interval_ms[1] for _, entry in rows]
    for name in rows[0][1].fidelity.to_json() if rows else ():
        columns[name] = [getattr(entry.fidelity, name) for _, entry in rows]
    return columns


def words_of(entry: MeasuredStudent) -> str:
    """The student or reference in words."""
    return describe(StudentSpec.from_json(dict(entry.spec)))


def notes_of(kind: str, entry: MeasuredStudent) -> list[str]:
    """Its aliases, whether it is a reference, and what dominates it."""
    notes = [alias for alias in entry.aliases if alias != entry.name]  # a reference's name is an alias too
    if kind == "reference":
        notes.append("reference")
    if entry.dominated_by:
        notes.append(f"dominated by {entry.dominated_by}")
    return notes


def baseline_of(front: Front) -> str:
    """The cosine of a constant vector, formatted; `unknown` for an empty front."""
    entries = [entry for _, entry in rows_of(front)]
    return f"{entries[0].fidelity.constant_baseline:.3f}" if entries else "unknown"
