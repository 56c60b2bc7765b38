# SPDX-License-Identifier: Apache-2.0
"""Selects a student of a front, by a limit or as the knee; and the aliases that every search sets."""

from __future__ import annotations

import math
from collections.abc import Sequence

from search.records.formatting import format_ms
from search.records.front import Front, MeasuredStudent
from search.records.objective import Objective
from search.storage.reference_students import TEACHER, require_student
from spaces.errors import UserError

FASTEST = "fastest"
MOST_FAITHFUL = "most-faithful"
BALANCED = "balanced"
SEARCH_ALIASES = (FASTEST, MOST_FAITHFUL, BALANCED)
"""Set by every search, on the front's ends and its knee."""


def select_student(
    front: Front,
    *,
    max_latency_ms: float | None = None,
    min_fidelity: float | None = None,
    balanced: bool = False,
    student: str | None = None,
) -> MeasuredStudent:
    """The student for exactly one condition: of the front, or a reference that is a student and registered with it.

    `max_latency_ms`: the most faithful student at most that slow. `min_fidelity`: the fastest one with at least
    that fidelity, in the measurement that the front's objective names. `balanced`: the one with the alias. `student`:
    the one of this name, or any reference of this name, registered or not. Raises ValueError, naming the nearest
    student, if none fits.
    """
    if (max_latency_ms is not None) + (min_fidelity is not None) + balanced + (student is not None) != 1:
        raise UserError("give exactly one of max_latency_ms, min_fidelity, balanced and student")
    if max_latency_ms is not None and not (math.isfinite(max_latency_ms) and max_latency_ms > 0.0):
        raise UserError(f"max_latency_ms must be a finite number above 0, got {max_latency_ms}")
    if min_fidelity is not None:
        front.objective.require("min_fidelity", min_fidelity)
    if student is not None:
        return _named(front, student)
    registered = [*front.students, *(entry for entry in front.references if entry.version is not None)]
    if not registered:
        raise UserError(f"the front of {front.study} holds no student; search for longer")
    if max_latency_ms is not None:
        within = [entry for entry in registered if entry.latency_ms <= max_latency_ms]
        if not within:
            nearest = _numbers(front, min(registered, key=lambda entry: entry.latency_ms))
            raise UserError(f"no student of {front.study} is within {max_latency_ms:g} ms; the nearest is {nearest}")
        return max(within, key=front.fidelity_of)
    if min_fidelity is not None:
        within = [entry for entry in registered if front.fidelity_of(entry) >= min_fidelity]
        if not within:
            nearest = _numbers(front, max(registered, key=front.fidelity_of))
            raise UserError(
                f"no student of {front.study} has a fidelity of {min_fidelity:g} or more; the nearest is {nearest}"
            )
        return min(within, key=lambda entry: entry.latency_ms)
    for entry in front.students:
        if BALANCED in entry.aliases:
            return entry
    raise UserError(f"no student of {front.study} has the alias {BALANCED}; search again to set it")


def balanced(students: Sequence[MeasuredStudent], objective: Objective) -> int:
    """Index of the knee of a front: the student between its ends with the most fidelity for its milliseconds.

    Both axes are scaled so that the front spans 0 to 1 in milliseconds and in fidelity; the knee has the largest
    (scaled fidelity - scaled latency), so it is the farthest above the line from end to end. A front of one or two
    students has nothing between its ends: the most faithful one.
    """
    points = [objective.point(student.latency_ms, student.fidelity) for student in students]
    order = sorted(range(len(students)), key=points.__getitem__)
    if len(order) < 3:
        return order[-1]
    (fastest_ms, least), (slowest_ms, most) = points[order[0]], points[order[-1]]

    def height(i: int) -> float:
        latency_ms, value = points[i]
        return (value - least) * (slowest_ms - fastest_ms) - (latency_ms - fastest_ms) * (most - least)

    return max(order[1:-1], key=height)


def _named(front: Front, name: str) -> MeasuredStudent:
    """The front student or reference of this name."""
    references = [entry.name for entry in front.references]
    require_student(name, others=references)
    for entry in (*front.students, *front.references):
        if entry.name == name:
            return entry
    for entry in front.dominated:
        if entry.name == name:
            raise UserError(
                f"{name} of {front.study} is not registered: {entry.dominated_by} is no slower and no less faithful; "
                f"choose {entry.dominated_by}"
            )
    known = [entry.name for entry in front.students] + [each for each in references if each != TEACHER]
    raise UserError(f"there is no student {name} on the front of {front.study}; there are {', '.join(known)}")


def _numbers(front: Front, student: MeasuredStudent) -> str:
    value = front.objective.format(front.fidelity_of(student))
    return (
        f"{student.name} (version {student.version}) with {format_ms(student.latency_ms)} ms and a fidelity of {value}"
    )
