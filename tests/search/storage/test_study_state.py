# SPDX-License-Identifier: Apache-2.0
"""Claims about the facts of a study that survive its command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from search.storage.study_state import STUDY, StateFile, StudyState
from search.study.clock import CLOCK, WRITE_CLOCK_S, StepRecorder, StudyClock
from search.study.limits import COMPLETE, SEARCHED, RequestedLimits
from search.study.teacher_outputs import CACHED_TEXT, CachedText
from spaces.study import StudySpec, load_study, with_overrides
from tests.search.reporters import Silent


@dataclass(frozen=True)
class Weather:
    """A value of a fact of the tests."""

    degrees: float

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Weather:
        return cls(degrees=float(document["degrees"]))


WEATHER: StateFile[Weather] = StateFile(
    name="weather", to_json=lambda it: {"degrees": it.degrees}, from_json=Weather.from_json
)


@pytest.fixture
def study() -> StudySpec:
    return load_study("quickstart")


def test_a_killed_command_costs_the_clock_no_more_than_a_few_seconds(tmp_path: Path) -> None:
    times, state = [100.0], StudyState(tmp_path)
    clock = StudyClock(state, now=lambda: times[-1])
    bar = StepRecorder(Silent(), state, clock).step("embedding")
    for now in (103.0, 110.0, 111.0):
        times.append(now)
        bar(1, 2)
    times.append(113.0)
    clock.trial_started()
    assert StudyClock(state).spent_s() < 11.0
    times.append(117.0)
    clock.rung_reached()
    spent_s = StudyClock(state, now=lambda: 0.0).spent_s()  # killed here: what follows was never written
    assert 17.0 - WRITE_CLOCK_S <= spent_s <= 17.0


def test_a_fact_is_read_as_it_was_written(tmp_path: Path, study: StudySpec) -> None:
    state = StudyState(tmp_path / "new")
    values: list[tuple[StateFile[Any], Any]] = [
        (WEATHER, Weather(degrees=-3.5)),
        (STUDY, study),
        (CLOCK, 12.5),
        (CACHED_TEXT, CachedText(n_sentences=10, cache_s=None)),
        (SEARCHED, study.search),
        (COMPLETE, RequestedLimits.of(study)),
    ]
    for fact, value in values:
        assert state.read(fact) is None
        state.write(fact, value)
        assert state.read(fact) == value
        assert json.loads(state.path(fact).read_text())["format"] == fact.format


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"degrees": "cold"}', '{"degrees": null}'])
def test_a_broken_file_is_a_missing_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "weather.json").write_text(text)
    assert StudyState(tmp_path).read(WEATHER) is None


def test_a_file_from_before_formats_reads_and_one_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    state = StudyState(tmp_path)
    (tmp_path / "weather.json").write_text('{"degrees": 7, "wind": 3}')
    assert state.read(WEATHER) == Weather(degrees=7.0)
    (tmp_path / "weather.json").write_text('{"format": 2, "kelvin": 280}')
    with pytest.raises(ValueError, match=r"weather\.json is read up to format 1, got format 2; use .*--name"):
        state.read(WEATHER)


def rewrite(path: Path, change: Any) -> None:
    """Changes a JSON file as another version would have written it."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_study_is_the_same_when_another_version_wrote_it_down(tmp_path: Path, study: StudySpec) -> None:
    state = StudyState(tmp_path)
    state.claim(study)

    def age(document: dict[str, Any]) -> None:
        assert study.corpus.max_tokens == 64 and study.profile.batch_size == 1  # the defaults
        del document["format"], document["corpus"]["max_tokens"], document["profile"]["batch_size"]
        del document["teachers"][0]["weight"], document["search"]["n_startup_trials"]
        for place in (document, document["corpus"], document["search"], document["teachers"][0]):
            place["mood"] = "good"
        for domain in document["space"].values():
            domain.pop("log", None) if domain.get("log") is False else None

    rewrite(state.path(STUDY), age)
    state.claim(study)
    state.claim(with_overrides(study, seed=7))
    rewrite(state.path(STUDY), age)
    with pytest.raises(ValueError, match=r"another profile, so its trials .*--name"):
        state.claim(replace(study, profile=replace(study.profile, batch_size=2)))


def test_limits_are_the_same_when_another_version_wrote_them_down(tmp_path: Path, study: StudySpec) -> None:
    state = StudyState(tmp_path)
    state.write(COMPLETE, RequestedLimits.of(study))
    rewrite(state.path(COMPLETE), lambda document: document["search"].pop("trial_memory_gib"))
    rewrite(state.path(COMPLETE), lambda document: document["graduation"].update(mood="good"))
    assert state.read(COMPLETE) == RequestedLimits.of(study)
    assert state.read(COMPLETE) != RequestedLimits.of(with_overrides(study, trials=99))


def test_a_study_that_cannot_be_read_is_not_taken_for_a_new_one(tmp_path: Path, study: StudySpec) -> None:
    state = StudyState(tmp_path)
    state.claim(study)
    rewrite(state.path(STUDY), lambda document: document["space"].update(colour={"options": ["red", "blue"]}))
    with pytest.raises(ValueError, match=r"study\.json holds no study that this version can read; .*--name"):
        state.claim(study)
