# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import TrialRecord, TrialState
from spaces.recipe import RecipeSpec
from spaces.student import Pooling, StaticSpec, Switch
from spaces.student_words import describe
from tests.search.toy_search import TEACHER, rung


def record(**changes):
    values = {
        "number": 7,
        "point": {"n_layers": 2, "embedding_dim": None, "static_path": True, "learning_rate": 1e-3},
        "spec": TEACHER,
        "recipe": RecipeSpec(),
        "seed": 3,
        "predicted_latency_ms": 1.5,
        "state": TrialState.PRUNED,
        "outcome": Outcome(OutcomeKind.DOMINATED, "at 100 tokens by trial-0001", (1,)),
        "rungs": (rung(100, 0.9), rung(200, 0.91)),
        "checkpoint": Path("trials/trial-0007/rung-2"),
        "continues": 5,
    }
    return TrialRecord(**{**values, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"spec": None, "recipe": None, "predicted_latency_ms": None},
        {"rungs": (), "checkpoint": None, "continues": None},
    ],
)
def test_a_record_survives_json(changes):
    before = record(**changes)
    assert TrialRecord.from_json(json.loads(json.dumps(before.to_json()))) == before


def test_a_record_of_another_version_is_read_with_defaults_and_without_what_is_not_known():
    before = record(continues=None)
    document = json.loads(json.dumps(before.to_json()))
    for name in ("format", "continues"):
        del document[name]
    document["mood"] = document["rungs"][0]["mood"] = document["rungs"][0]["fidelity"]["mood"] = "good"
    assert TrialRecord.from_json(document) == before


def test_a_record_that_cannot_be_read_says_why():
    document = record().to_json()
    with pytest.raises(ValueError, match="trial is read up to format 1, got format 2; use the version"):
        TrialRecord.from_json({**document, "format": 2})
    with pytest.raises(ValueError, match="the record of a trial needs number, got only"):
        TrialRecord.from_json({name: value for name, value in document.items() if name != "number"})
    with pytest.raises(ValueError, match="the record of a rung needs loss, got only"):
        TrialRecord.from_json({**document, "rungs": [{k: v for k, v in document["rungs"][0].items() if k != "loss"}]})


def test_a_record_sums_up_its_rungs():
    assert record().n_tokens == 200
    assert record().seconds == 2.0
    assert record().fidelity.cosine == 0.91
    assert record(rungs=()).fidelity is None


def test_rungs_without_a_batch_between_them_leave_the_trial_its_speed():
    speeds = ((100, 50.0), (100, 0.0), (400, 25.0))
    fast, none, slow = (replace(rung(n, 0.9), tokens_per_s=speed) for n, speed in speeds)
    assert record(rungs=(fast,)).tokens_per_s == 50.0
    assert record(rungs=(fast, none)).tokens_per_s == 50.0
    assert record(rungs=(fast, none, slow)).tokens_per_s == pytest.approx(400 / (100 / 50 + 300 / 25))
    assert record(rungs=(none,)).tokens_per_s > 0.0


def test_a_record_of_an_older_version_holds_its_outcome_as_text():
    document = {**record().to_json(), "outcome": "dominated: at 100 tokens by trial-0001"}
    assert TrialRecord.from_json(document) == record()
    assert TrialRecord.from_json({**document, "outcome": ""}) == record(outcome=None)


def test_students_are_described_in_words():
    encoder = TEACHER.encoder
    assert describe(TEACHER) == "4 x 32, 4 heads, dense 64"
    assert describe(replace(TEACHER, encoder=None, static=StaticSpec())) == "static"
    assert describe(replace(TEACHER, encoder=None, static=StaticSpec(embedding_dim=8))) == "static 8"
    unusual = replace(
        encoder,
        head_width=4,
        feed_forward=Switch(n_experts=4, units=16),
        sparsity=0.5,
        embedding_dim=16,
        pooling=Pooling.CLS,
    )
    assert describe(replace(TEACHER, encoder=unusual, static=StaticSpec())) == (
        "4 x 32, 4 heads of 4, switch 4 x 16, 50% sparse, embedding 16, cls, static"
    )
    assert describe(None) == "cannot be built"
