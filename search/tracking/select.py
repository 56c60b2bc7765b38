# SPDX-License-Identifier: Apache-2.0
"""Selects a student of a registered front, by a limit or its name."""

from __future__ import annotations

from search.records.front import Front, MeasuredStudent
from search.records.selection import select_student
from search.storage.store import Store
from search.tracking.publish import register_reference
from search.tracking.registry import load_front


def select(
    store: Store,
    name: str | Front | None = None,
    *,
    max_latency_ms: float | None = None,
    min_fidelity: float | None = None,
    balanced: bool = False,
    student: str | None = None,
) -> MeasuredStudent:
    """The student for exactly one condition (`search.records.selection.select_student`), with its `uri`.

    `name` is a study's name, or its front, None the latest study. A reference that is selected by its name is
    registered if it was not. Raises ValueError, naming the nearest student, if none fits.
    """
    front = name if isinstance(name, Front) else load_front(store, name)
    found = select_student(
        front, max_latency_ms=max_latency_ms, min_fidelity=min_fidelity, balanced=balanced, student=student
    )
    return register_reference(store, front, found)
