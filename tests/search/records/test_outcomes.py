# SPDX-License-Identifier: Apache-2.0
"""Claims about outcomes: as JSON, as text, and as older versions wrote them."""

from __future__ import annotations

import json

import pytest

from search.records.outcomes import Outcome, OutcomeKind


@pytest.mark.parametrize("kind", list(OutcomeKind))
@pytest.mark.parametrize(
    "fields", [{}, {"details": "at 100 tokens: trial-0003"}, {"details": "x", "rivals": (3, 12)}, {"exception": "E"}]
)
def test_an_outcome_survives_json(kind, fields):
    outcome = Outcome(kind, **fields)
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="eaten"):
        Outcome.from_json({"kind": "eaten by a dog"})


@pytest.mark.parametrize(
    ("outcome", "text", "label"),
    [
        (Outcome(OutcomeKind.COMPLETE), "complete", "complete"),
        (Outcome(OutcomeKind.HUNG, "no report within 3 s"), "hung: no report within 3 s", "hung"),
        (Outcome(OutcomeKind.EXCEPTION, "no such", exception="KeyError"), "KeyError: no such", "KeyError"),
        (Outcome(OutcomeKind.EXCEPTION, exception="MemoryError"), "MemoryError", "MemoryError"),
        (Outcome(OutcomeKind.EXCEPTION, "in words alone"), "in words alone", "exception"),
    ],
)
def test_people_read_the_kind_or_the_exception_and_the_details(outcome, text, label):
    assert (str(outcome), outcome.label) == (text, label)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("complete", Outcome(OutcomeKind.COMPLETE)),
        ("graduated", Outcome(OutcomeKind.GRADUATED)),
        ("interrupted: the driver ended", Outcome(OutcomeKind.DRIVER_ENDED)),
        ("interrupted: Ctrl-C", Outcome(OutcomeKind.INTERRUPTED, "Ctrl-C")),
        ("time budget: ended after 100 tokens", Outcome(OutcomeKind.TIME_BUDGET, "ended after 100 tokens")),
        ("no room: [Errno 28] No space left", Outcome(OutcomeKind.NO_SPACE, "[Errno 28] No space left")),
        ("not finite: the loss is nan", Outcome(OutcomeKind.NOT_FINITE, "the loss is nan")),
        ("cannot be built: 7 heads: no", Outcome(OutcomeKind.CANNOT_BE_BUILT, "7 heads: no")),
        ("worker died; 3 times at this rung", Outcome(OutcomeKind.WORKER_DIED, "3 times at this rung")),
        ("checkpoint not found: /a/b; the store", Outcome(OutcomeKind.CHECKPOINT_NOT_FOUND, "/a/b; the store")),
        ("ValueError: hung: no", Outcome(OutcomeKind.EXCEPTION, "hung: no", exception="ValueError")),
        ("StopIteration: ", Outcome(OutcomeKind.EXCEPTION, exception="StopIteration")),
        ("its workers ended before", Outcome(OutcomeKind.EXCEPTION, "its workers ended before")),
    ],
)
def test_the_text_of_older_versions_is_read(text, outcome):
    assert Outcome.from_json(text) == outcome


def test_the_rivals_of_older_versions_are_the_trials_that_the_text_names():
    text = "dominated: at 3,000 tokens, expected to end behind trial-0007 (1.5 ms) and trial-12345 (2 ms)"
    outcome = Outcome.from_json(text)
    assert outcome is not None
    assert (outcome.kind, outcome.rivals) == (OutcomeKind.DOMINATED, (7, 12345))
    assert str(outcome) == text


@pytest.mark.parametrize("document", [None, ""])
def test_what_runs_has_no_outcome(document):
    assert Outcome.from_json(document) is None
