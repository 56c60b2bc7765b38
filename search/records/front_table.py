# SPDX-License-Identifier: Apache-2.0
"""A front as rows and columns: what the terminal, MLflow and Markdown show. References stand below the students."""

from __future__ import annotations

from collections.abc import Iterator

from search.records.formatting import describe_profile, format_ms
from search.records.front import Front, MeasuredStudent
from spaces.student import StudentSpec
from spaces.student_words import describe

_COLUMNS: tuple[tuple[str, str], ...] = (
    ("name", "left"),
    ("version", "right"),
    ("student", "left"),
    ("ms", "right"),
    ("95% interval", "right"),
    ("speed-up", "right"),
    ("cosine", "right"),
    ("5th pct.", "right"),
    ("centred", "right"),
    ("Spearman", "right"),
    ("top 1", "right"),
    ("top 10", "right"),
    ("parameters", "right"),
    ("notes", "left"),
)


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
        f"a constant vector has a cosine of {_baseline(front)}.",
        "",
        "| " + " | ".join(column for column, _ in _COLUMNS) + " |",
        "|" + "|".join("---:" if side == "right" else "---" for _, side in _COLUMNS) + "|",
    ]
    for kind, entry in rows_of(front):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(kind, entry)) + " |")
    return "\n".join(lines) + "\n"


def front_columns(front: Front) -> dict[str, list[str | float | int | None]]:
    """Column by name, numbers as numbers: the table that MLflow shows."""
    rows = list(rows_of(front))
    columns: dict[str, list[str | float | int | None]] = {
        "name": [entry.name for _, entry in rows],
        "kind": [kind for kind, _ in rows],
        "version": [entry.version or "" for _, entry in rows],
        "aliases": [", ".join(entry.aliases) for _, entry in rows],
        "student": [describe(StudentSpec.from_json(dict(entry.spec))) for _, entry in rows],
        "dominated_by": [entry.dominated_by or "" for _, entry in rows],
    }
    for name in ("n_layers", "latency_ms", "speedup", "n_parameters", "n_bytes"):
        columns[name] = [getattr(entry, name) for _, entry in rows]
    columns["latency_low_ms"] = [entry.latency_interval_ms[0] for _, entry in rows]
    columns["latency_high_ms"] = [entry.latency_interval_ms[1] for _, entry in rows]
    for name in rows[0][1].fidelity.to_json() if rows else ():
        columns[name] = [getattr(entry.fidelity, name) for _, entry in rows]
    return columns


def _cells(kind: str, entry: MeasuredStudent) -> list[str]:
    low_ms, high_ms = entry.latency_interval_ms
    fidelity = entry.fidelity
    notes = list(entry.aliases)
    if kind == "reference":
        notes.append("reference")
    if entry.dominated_by:
        notes.append(f"dominated by {entry.dominated_by}")
    return [
        entry.name,
        entry.version or "",
        describe(StudentSpec.from_json(dict(entry.spec))),
        format_ms(entry.latency_ms),
        f"{format_ms(low_ms)} to {format_ms(high_ms)}",
        f"{entry.speedup:.3g} x",
        f"{fidelity.cosine:.4f}",
        f"{fidelity.cosine_p5:.4f}",
        f"{fidelity.cosine_centred:.4f}",
        f"{fidelity.spearman:.4f}",
        f"{fidelity.overlap_at_1:.3f}",
        f"{fidelity.overlap_at_10:.3f}",
        f"{entry.n_parameters:,}",
        ", ".join(notes),
    ]


def _baseline(front: Front) -> str:
    entries = [entry for _, entry in rows_of(front)]
    return f"{entries[0].fidelity.constant_baseline:.3f}" if entries else "unknown"
