# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from runtime.engine import native_module
from runtime.folder import expected_tensors, read_folder, student_digest, write_folder
from runtime.loading import load
from search.export.embed import embed_file
from search.records.front import Front, MeasuredStudent
from search.records.objective import COSINE
from search.records.outcomes import Outcome, OutcomeKind
from search.records.selection import balanced
from search.records.trial import TrialState
from search.report.page import report_html, write_report
from search.storage.reference_students import is_reference, teacher_name_on
from search.storage.store import Store
from search.tracking.async_writer import TrialWriter
from search.tracking.client import activated, client_of, create_store
from search.tracking.experiment import runs_of_kind, study_experiment
from search.tracking.names import RunParam, Tag
from search.tracking.publish import register_front
from search.tracking.registry import (
    NoFrontError,
    load_front,
    load_trials,
    registered_students,
    resolve_model,
    set_alias,
    study_names,
    versions_of,
)
from search.tracking.select import select
from search.tracking.trial_runs import TrialLog
from spaces.profile import LatencyProfile, Runtime
from spaces.student import StudentSpec
from tests.search.tiny_records import WORDS, fidelity, record, spec_of

SENTENCES = ["the cat sleeps", "the dog runs", "dog"]
TEACHER_MS = 8.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One database for the file: creating it takes seconds. Its path is an address only if it is quoted."""
    return create_store(Store(tmp_path_factory.mktemp("stores") / "st ore #1 é"))


def entry(name: str, n_layers: int, latency_ms: float, cosine: float) -> MeasuredStudent:
    return MeasuredStudent.measured(
        name,
        spec_of(n_layers),
        latency_ms=latency_ms,
        latency_interval_ms=(latency_ms * 0.9, latency_ms * 1.1),
        teacher_latency_ms=TEACHER_MS,
        fidelity=fidelity(cosine),
    )


REFERENCES = (entry("teacher", 4, TEACHER_MS, 1.0), entry("static-table", 0, 0.05, 0.88))
STATIC = entry("trial-0000", 0, 0.04, 0.885)
SMALL = entry("trial-0001", 1, 2.0, 0.93)
LARGE = entry("trial-0002", 3, 6.0, 0.98)


def front(study: str, students: Sequence[MeasuredStudent] = (STATIC, SMALL, LARGE)) -> Front:
    return Front.of(
        study,
        teacher="tiny-teacher",
        profile=LatencyProfile(),
        objective=COSINE,
        references=REFERENCES,
        students=students,
    )


def folders(
    root: Path, students: Sequence[MeasuredStudent] = (STATIC, SMALL, LARGE), *, seed: int = 0
) -> dict[str, Path]:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    found = {}
    for student in students:
        spec = StudentSpec.from_json(dict(student.spec))
        generator = np.random.default_rng([seed, spec.n_layers])
        weights = {name: generator.normal(size=shape) for name, shape in expected_tensors(spec).items()}
        path = root / f"{student.name} #{seed}"
        found[student.name] = write_folder(path, spec, weights=weights, tokenizer_json=tokenizer.to_str())
    return found


@pytest.fixture(scope="module")
def registered(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Path]]:
    """A study with a front of three students; tests that change a study register their own."""
    paths = folders(tmp_path_factory.mktemp("students"))
    register_front(store, front("shared"), page=report_html, folders=paths, params={RunParam.CORPUS_KEY: "tiny"})
    return "shared", paths


# The front.


def test_the_front_read_back_is_the_front_that_was_registered(store: Store, tmp_path: Path) -> None:
    written = register_front(store, front("readback"), page=report_html, folders=folders(tmp_path))
    read = load_front(store, "readback")
    assert read == written
    assert [student.name for student in read.students] == ["trial-0000", "trial-0001", "trial-0002"]
    assert [student.changed(version=None, aliases=(), uri=None) for student in read.students] == [STATIC, SMALL, LARGE]
    assert read.references == REFERENCES
    assert [student.uri for student in read.students] == [f"models:/readback/{i}" for i in (1, 2, 3)]


def test_search_aliases_point_to_the_ends_and_the_knee(store: Store, registered: tuple[str, dict[str, Path]]) -> None:
    aliases = {student.name: student.aliases for student in load_front(store, "shared").students}
    assert aliases["trial-0000"] == ("fastest",)
    assert "balanced" in aliases["trial-0001"]
    assert "most-faithful" in aliases["trial-0002"]


def test_the_knee_lies_farthest_above_the_line_between_the_ends() -> None:
    points = [(1.0, 0.5), (2.0, 0.9), (3.0, 0.92), (11.0, 1.0)]
    students = [entry(f"t{i}", 0, *point) for i, point in enumerate(points)]
    heights = [(cosine - 0.5) / 0.5 - (latency_ms - 1.0) / 10.0 for latency_ms, cosine in points]
    assert balanced(students, COSINE) == int(np.argmax(heights)) == 1
    assert balanced(students[:1], COSINE) == 0
    assert balanced([students[3], students[0]], COSINE) == 0


def test_no_name_means_the_study_that_was_registered_last(store: Store) -> None:
    register_front(store, front("older", ()), page=report_html, folders={})
    register_front(store, front("newer", ()), page=report_html, folders={})
    assert load_front(store).study == "newer"
    register_front(store, front("older", ()), page=report_html, folders={})
    assert load_front(store).study == "older"
    assert study_names(store)[:2] == ("older", "newer")


def test_the_same_student_is_registered_once(store: Store, tmp_path: Path) -> None:
    paths = folders(tmp_path)
    register_front(store, front("twice", (SMALL,)), page=report_html, folders=paths)
    slower = front("twice", (SMALL.changed(latency_ms=2.5),))
    (again,) = register_front(store, slower, page=report_html, folders=paths).students
    assert len(versions_of(client_of(store), "twice")) == 1
    assert (again.version, again.latency_ms) == ("1", 2.5)
    client = client_of(store)
    experiment = client.get_experiment_by_name("twice").experiment_id
    (summary,) = runs_of_kind(client, experiment, "summary")
    folder = store.artifacts / "twice" / summary.info.run_id / "artifacts"
    table = json.loads((folder / "front-table.json").read_text())
    assert len(table["data"]) == 3  # a student and two references: written anew, not appended to


def test_a_student_that_is_beaten_later_keeps_its_version_but_not_its_place(store: Store, tmp_path: Path) -> None:
    register_front(store, front("later", (STATIC, SMALL)), page=report_html, folders=folders(tmp_path))
    set_alias(store, "later", "2", "production")
    better = entry("trial-0009", 2, 1.5, 0.95)
    students = (STATIC, SMALL, better)
    register_front(store, front("later", students), page=report_html, folders=folders(tmp_path, students))
    by_version = {student.version: student for student in registered_students(client_of(store), "later")}
    assert {version: student.on_front for version, student in by_version.items()} == {"1": True, "2": False, "3": True}
    assert by_version["2"].aliases == ("production",)  # an alias of the user's stays where it was put
    assert (by_version["3"].name, by_version["3"].aliases) == ("trial-0009", ("balanced", "most-faithful"))
    assert [student.name for student in load_front(store, "later").students] == ["trial-0000", "trial-0009"]


def test_new_weights_of_a_trial_are_a_new_version(store: Store, tmp_path: Path) -> None:
    register_front(store, front("retrained", (SMALL,)), page=report_html, folders=folders(tmp_path))
    read = register_front(store, front("retrained", (SMALL,)), page=report_html, folders=folders(tmp_path, seed=1))
    assert [student.version for student in read.students] == ["2"]


def test_what_a_reference_dominates_is_shown_but_not_registered(store: Store, tmp_path: Path) -> None:
    worse = entry("trial-0003", 0, 0.06, 0.87)  # the static table is faster and more faithful
    students = (worse, SMALL)
    paths = folders(tmp_path, students)
    document = register_front(store, front("dominated", students), page=report_html, folders=paths)
    assert [student.name for student in document.students] == ["trial-0001"]
    assert [(student.name, student.dominated_by) for student in document.dominated] == [("trial-0003", "static-table")]
    assert len(versions_of(client_of(store), "dominated")) == 1
    assert load_front(store, "dominated").dominated == document.dominated


def test_a_version_that_a_reference_comes_to_dominate_says_so(store: Store, tmp_path: Path) -> None:
    paths = folders(tmp_path)
    register_front(store, front("overtaken", (STATIC,)), page=report_html, folders=paths)
    slower = STATIC.changed(latency_ms=0.07, fidelity=fidelity(0.879))
    register_front(store, front("overtaken", (slower,)), page=report_html, folders=paths)
    first = registered_students(client_of(store), "overtaken")[0]
    assert (first.on_front, first.dominated_by, first.latency_ms) == (False, "static-table", 0.07)
    assert first.aliases == ()


def test_an_empty_front_loads(store: Store) -> None:
    register_front(store, front("empty", ()), page=report_html, folders={})
    assert load_front(store, "empty").students == ()
    with pytest.raises(ValueError, match="holds no student"):
        select(store, "empty", balanced=True)


def test_a_front_student_without_a_folder_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="trial-0000, trial-0001, trial-0002"):
        register_front(store, front("homeless"), page=report_html, folders={})


def test_the_digest_ignores_measurements_but_not_weights(tmp_path: Path) -> None:
    first = folders(tmp_path)["trial-0001"]
    same = shutil.copytree(first, tmp_path / "same")
    document = json.loads((same / "student.json").read_text())
    (same / "student.json").write_text(json.dumps({**document, "measurements": {"latency_ms": 3.0}}))
    assert student_digest(same) == student_digest(first)
    assert student_digest(folders(tmp_path, seed=1)["trial-0001"]) != student_digest(first)


def test_versions_carry_what_the_ui_shows(store: Store, registered: tuple[str, dict[str, Path]]) -> None:
    tags = client_of(store).get_model_version("shared", "2").tags
    assert tags["student"] == "trial-0001"
    assert float(tags["latency_ms"]) == 2.0
    assert float(tags["fidelity.cosine"]) == 0.93
    assert json.loads(tags["profile"]) == LatencyProfile().to_json()
    assert StudentSpec.from_json(json.loads(tags["spec"])) == spec_of(1)
    assert (tags["on_front"], tags["teacher"]) == ("true", "tiny-teacher")


def test_the_summary_run_holds_table_json_and_page(store: Store, registered: tuple[str, dict[str, Path]]) -> None:
    client = client_of(store)
    (summary,) = runs_of_kind(client, client.get_experiment_by_name("shared").experiment_id, "summary")
    folder = store.artifacts / "shared" / summary.info.run_id / "artifacts"
    assert json.loads((folder / "front.json").read_text()) == load_front(store, "shared").to_json()
    assert "<!DOCTYPE html>" in (folder / "front.html").read_text()
    names = {path.name for path in folder.iterdir()}
    assert names == {"front.json", "front.html", "front-table.json", "front-record.json"}
    assert summary.info.status == "FINISHED"
    assert summary.data.tags["understudy.corpus_key"] == "tiny"
    assert "static-table" in summary.data.tags["mlflow.note.content"]


def test_no_pickle_is_written_and_nothing_outside_the_store(
    store: Store, registered: tuple[str, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    load_front(store, "shared")
    assert list(tmp_path.iterdir()) == []
    suffixes = {path.suffix for path in store.artifacts.rglob("*") if path.is_file()}
    assert suffixes <= {"", ".json", ".html", ".yaml", ".txt", ".py", ".safetensors", ".so"}
    assert {path.name for path in store.artifacts.rglob("*.so")} == {path.name for path in [native_module()] if path}


# Models.


def test_a_registered_model_predicts_in_this_process(store: Store, registered: tuple[str, dict[str, Path]]) -> None:
    with activated(store):
        import mlflow

        model = mlflow.pyfunc.load_model("models:/shared@fastest")
    vectors = model.predict(SENTENCES)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, load(registered[1]["trial-0000"]).encode(SENTENCES))


@pytest.mark.slow
def test_a_registered_model_predicts_what_the_folder_encodes(
    store: Store, registered: tuple[str, dict[str, Path]], tmp_path: Path
) -> None:
    """In a process that knows neither the repository nor torch, and may not unpickle."""
    script = """
import sys, mlflow, numpy as np, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/shared@most-faithful")
sentences = ["the cat sleeps", "the dog runs", "dog"]
vectors = model.predict(sentences)
assert vectors.dtype == np.float32, vectors.dtype
for other in (tuple(sentences), np.array(sentences), pd.Series(sentences), pd.DataFrame({"text": sentences})):
    assert np.array_equal(model.predict(other), vectors), type(other)
assert model.predict("dog").shape == (1, vectors.shape[1])
assert model.predict([]).shape == (0, vectors.shape[1])
for wrong in ([1], [None], pd.DataFrame({"a": sentences, "b": sentences})):
    try:
        model.predict(wrong)
        raise SystemExit(f"{wrong} was accepted")
    except ValueError:
        pass
assert "torch" not in sys.modules
np.save(sys.argv[2], vectors)
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-P", "-c", script, store.tracking_uri, str(tmp_path / "vectors.npy")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    expected = load(registered[1]["trial-0002"]).encode(SENTENCES)
    np.testing.assert_array_equal(np.load(tmp_path / "vectors.npy"), expected)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("shared", "trial-0001"),
        ("shared@fastest", "trial-0000"),
        ("shared/3", "trial-0002"),
        ("models:/shared/3", "trial-0002"),
        ("models:/shared@balanced", "trial-0001"),
    ],
)
def test_every_way_to_name_a_model_finds_its_student(
    store: Store, registered: tuple[str, dict[str, Path]], model: str, name: str
) -> None:
    assert student_digest(resolve_model(store, model)) == student_digest(registered[1][name])


def test_a_logged_models_address_finds_its_student(store: Store, registered: tuple[str, dict[str, Path]]) -> None:
    source = client_of(store).get_model_version("shared", "3").source
    assert student_digest(resolve_model(store, source)) == student_digest(registered[1]["trial-0002"])


def test_a_folder_is_a_model_without_any_store(registered: tuple[str, dict[str, Path]], tmp_path: Path) -> None:
    path = registered[1]["trial-0001"]
    assert resolve_model(Store(tmp_path / "none"), path) == path


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("shraed", "there is no model shraed.*did you mean shared"),
        ("shared@best", "no alias of shared best; there are balanced, fastest, most-faithful"),
        ("shared/99", "no version of shared 99; there are 1, 2, 3"),
        ("../shared", "neither a student folder nor a model"),
        ("shared/x", "neither a student folder nor a model"),
        ("", "neither a student folder nor a model"),
        ("models:/m-" + "0" * 32, "there is no logged model"),
    ],
)
def test_an_unknown_model_says_what_exists(
    store: Store, registered: tuple[str, dict[str, Path]], model: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_model(store, model)


@pytest.mark.slow
def test_a_store_that_was_copied_elsewhere_still_reads(
    store: Store, registered: tuple[str, dict[str, Path]], tmp_path: Path
) -> None:
    students = folders(tmp_path / "students")
    register_front(store, front("moving", (SMALL,)), page=report_html, folders=students)
    own = Store(shutil.copytree(store.root, tmp_path / "here"))
    shutil.rmtree(store.artifacts / "moving")
    assert student_digest(resolve_model(own, "moving/1")) == student_digest(students["trial-0001"])
    assert load_front(own, "moving").references == REFERENCES
    register_front(own, front("moving", (SMALL, STATIC)), page=report_html, folders=students)
    assert resolve_model(own, "moving/2").is_relative_to(own.root)
    assert len(versions_of(client_of(store), "moving")) == 1


# Selection.


@pytest.mark.parametrize(
    ("wish", "name"),
    [
        ({"max_latency_ms": 2.0}, "trial-0001"),
        ({"max_latency_ms": 1.9}, "trial-0000"),
        ({"max_latency_ms": 100}, "trial-0002"),
        ({"min_fidelity": 0.93}, "trial-0001"),
        ({"min_fidelity": 0.931}, "trial-0002"),
        ({"min_fidelity": 0.1}, "trial-0000"),
        ({"balanced": True}, "trial-0001"),
    ],
)
def test_select_gives_the_best_student_within_the_wish(
    store: Store, registered: tuple[str, dict[str, Path]], wish: dict[str, float], name: str
) -> None:
    chosen = select(store, "shared", **wish)  # type: ignore[arg-type]
    assert chosen.name == name
    assert chosen.to_json(with_uri=True)["uri"] == f"models:/shared/{chosen.version}"


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"max_latency_ms": 0.001}, r"within 0.001 ms; the nearest is trial-0000 \(version 1\) with 0.0400 ms"),
        ({"min_fidelity": 0.99}, r"0.99 or more; the nearest is trial-0002 .* fidelity of 0.9800"),
        ({"max_latency_ms": -1.0}, "above 0, got -1"),
        ({"max_latency_ms": float("nan")}, "above 0, got nan"),
        ({"min_fidelity": 2.0}, "-1 to 1, got 2"),
        ({}, "exactly one"),
        ({"min_fidelity": 0.9, "balanced": True}, "exactly one"),
    ],
)
def test_a_wish_that_nothing_meets_names_the_nearest(
    store: Store, registered: tuple[str, dict[str, Path]], wish: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        select(store, "shared", **wish)  # type: ignore[arg-type]


def test_an_alias_moves(store: Store, tmp_path: Path) -> None:
    register_front(store, front("aliased", (STATIC, SMALL)), page=report_html, folders=folders(tmp_path))
    set_alias(store, "aliased", "1", "production")
    set_alias(store, "aliased", "2", "production")
    aliases = {student.version: student.aliases for student in load_front(store, "aliased").students}
    assert "production" in aliases["2"]
    assert "production" not in aliases["1"]


@pytest.mark.parametrize(
    ("version", "alias", "message"),
    [
        ("9", "production", "there is no version of shared 9"),
        ("1", "fastest", "set by every search"),
        ("1", "latest", "MLflow's"),
        ("1", "v2", "MLflow's"),
        ("1", "../x", "alias"),
    ],
)
def test_a_wrong_alias_is_refused(
    store: Store, registered: tuple[str, dict[str, Path]], version: str, alias: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        set_alias(store, "shared", version, alias)


def test_an_unknown_study_names_those_that_exist(store: Store, registered: tuple[str, dict[str, Path]]) -> None:
    with pytest.raises(NoFrontError, match=r"there is no study sharde; there are .*did you mean shared"):
        load_front(store, "sharde")
    with pytest.raises(ValueError, match="study must be"):
        load_front(store, "../shared")


def test_a_database_of_another_mlflow_names_the_remedy(store: Store, tmp_path: Path) -> None:
    shutil.copyfile(store.database, tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("update alembic_version set version_num = '451aebb31d03'")  # MLflow 1.0
        connection.commit()
    with pytest.raises(ValueError, match="mlflow db upgrade"):
        load_front(Store(tmp_path))


# References that are students.

ON_ENGINE = entry("teacher-on-engine", 4, 5.0, 0.9994)
FIRST_LAYERS = entry("teacher-first-2-layers", 2, 3.0, 0.4)


def front_beside(study: str, *references: MeasuredStudent) -> Front:
    return replace(front(study), references=(REFERENCES[0], *references, REFERENCES[1]))


@pytest.fixture(scope="module")
def beside(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of a study `beside` whose front has a teacher on the engine, and whose first layers are beaten."""
    paths = folders(tmp_path_factory.mktemp("beside"), (STATIC, SMALL, LARGE, ON_ENGINE))
    study = front_beside("beside", ON_ENGINE, FIRST_LAYERS)
    register_front(store, study, page=report_html, folders=paths)
    kept = store.study_folder("beside") / "references"
    shutil.copytree(paths["teacher-on-engine"], kept / "teacher")
    cut = json.loads((kept / "teacher" / "student.json").read_text()) | {"spec": dict(FIRST_LAYERS.spec)}
    (kept / "teacher-first-2-layers").mkdir()
    (kept / "teacher-first-2-layers" / "student.json").write_text(json.dumps(cut))
    shutil.copyfile(kept / "teacher" / "tokenizer.json", kept / "teacher-first-2-layers" / "tokenizer.json")
    return paths


def test_references_compete_that_are_students_and_that_nothing_dominates() -> None:
    assert [entry.name for entry in front_beside("s", ON_ENGINE, FIRST_LAYERS).competing_references()] == [
        "teacher-on-engine"
    ]  # trial-0000 beats the static table
    alone = replace(front_beside("s", ON_ENGINE, FIRST_LAYERS), students=())
    assert [entry.name for entry in alone.competing_references()] == ["teacher-on-engine", "static-table"]


def test_a_reference_is_registered_beside_the_students(store: Store, beside: dict[str, Path]) -> None:
    read = load_front(store, "beside")
    assert [entry.name for entry in read.students] == ["trial-0000", "trial-0001", "trial-0002"]
    assert {entry.name: (entry.version, entry.aliases, entry.uri) for entry in read.references}[
        "teacher-on-engine"
    ] == (
        "4",
        ("teacher-on-engine",),
        "models:/beside/4",
    )
    assert read.references[0].version is None and read.references[0].uri is None
    assert read.students[-1].aliases == ("most-faithful",)  # the aliases of the search are those of its students
    versions = {str(each.version): each for each in versions_of(client_of(store), "beside")}
    assert versions["4"].tags["is_reference"] == "true" and versions["4"].tags["on_front"] == "true"
    assert "is_reference" not in versions["1"].tags
    client = client_of(store)
    (run,) = runs_of_kind(client, client.get_experiment_by_name("beside").experiment_id, "reference")
    assert (run.info.run_name, run.info.status) == ("teacher-on-engine", "FINISHED")
    assert run.data.metrics["measured/latency_ms"] == 5.0
    assert run.data.metrics["measured/fidelity/cosine"] == 0.9994


@pytest.mark.parametrize(
    ("wish", "name"),
    [
        ({"max_latency_ms": 5.0}, "teacher-on-engine"),
        ({"max_latency_ms": 100.0}, "teacher-on-engine"),
        ({"max_latency_ms": 4.9}, "trial-0001"),
        ({"min_fidelity": 0.95}, "teacher-on-engine"),
        ({"min_fidelity": 0.93}, "trial-0001"),
        ({"balanced": True}, "trial-0001"),
        ({"student": "teacher-on-engine"}, "teacher-on-engine"),
        ({"student": "trial-0002"}, "trial-0002"),
    ],
)
def test_select_takes_a_reference_where_it_is_the_best(
    store: Store, beside: dict[str, Path], wish: dict[str, float], name: str
) -> None:
    chosen = select(store, "beside", **wish)  # type: ignore[arg-type]
    assert chosen.name == name
    found = resolve_model(store, chosen.uri or "")
    assert student_digest(found) == student_digest(beside[name])


def test_a_reference_is_named_wherever_a_model_is(store: Store, beside: dict[str, Path], tmp_path: Path) -> None:
    import mlflow

    file = tmp_path / "lines.txt"
    file.write_text("\n".join(SENTENCES))
    expected = load(beside["teacher-on-engine"]).encode(SENTENCES)
    np.testing.assert_array_equal(np.load(embed_file(store, "beside@teacher-on-engine", file)), expected)
    with activated(store):
        model = mlflow.pyfunc.load_model("models:/beside@teacher-on-engine")
    np.testing.assert_allclose(model.predict(SENTENCES), expected, atol=1e-6)


def test_a_reference_that_is_beaten_is_there_when_it_is_named(store: Store, beside: dict[str, Path]) -> None:
    folder = resolve_model(store, "beside@teacher-first-2-layers")
    weights, teacher = read_folder(folder).weights, read_folder(beside["teacher-on-engine"]).weights
    assert set(weights) == set(expected_tensors(spec_of(2)))
    for name, array in weights.items():
        np.testing.assert_array_equal(array, teacher[name])
    assert all(entry.version is None for entry in load_front(store, "beside").references if entry == FIRST_LAYERS)
    chosen = select(store, "beside", student="teacher-first-2-layers")  # which registers it
    assert (chosen.version, chosen.aliases, chosen.uri) == ("5", ("teacher-first-2-layers",), "models:/beside/5")
    assert select(store, "beside", student="teacher-first-2-layers") == chosen
    assert student_digest(resolve_model(store, "beside/5")) == student_digest(folder)
    assert [entry.name for entry in load_front(store, "beside").students] == ["trial-0000", "trial-0001", "trial-0002"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("teacher", "is the baseline, measured in PyTorch, and no student: choose teacher-on-engine"),
        ("trial-0099", "there is no student trial-0099 .* there are trial-0000, trial-0001, trial-0002, teacher-on"),
        ("static-table", "files of static-table of beside are not in"),
    ],
)
def test_what_is_no_student_says_so_when_it_is_selected(
    store: Store, beside: dict[str, Path], name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        select(store, "beside", student=name)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("beside@teacher", "is the baseline, measured in PyTorch, and no student: choose teacher-on-engine"),
        ("shared@teacher", "is the baseline, measured in PyTorch, and no student: load it with sentence-transformers"),
        ("shared@teacher-on-engine", "there is no alias of shared teacher-on-engine; there are balanced"),
        ("nowhere@teacher-on-engine", "there is no model nowhere"),
    ],
)
def test_what_is_no_student_says_so_when_it_is_named(
    store: Store, registered: tuple[str, dict[str, Path]], beside: dict[str, Path], model: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_model(store, model)


@pytest.mark.parametrize("alias", ["teacher", "teacher-on-engine", "teacher-first-1-layer", "static-table"])
def test_a_reference_keeps_its_name_for_itself(store: Store, beside: dict[str, Path], alias: str) -> None:
    with pytest.raises(ValueError, match="the references' are set by every search"):
        set_alias(store, "beside", "1", alias)


@pytest.mark.parametrize("alias", ["teacher-on-call", "teacher-on-engines", "teacher-first", "static-tables"])
def test_a_name_that_no_reference_has_is_free(alias: str) -> None:
    assert not is_reference(alias)


@pytest.mark.parametrize("runtime", Runtime)
def test_every_runtime_has_a_name_for_its_teacher(runtime: Runtime) -> None:
    assert is_reference(teacher_name_on(runtime))


def test_an_alias_of_a_user_with_a_reference_s_name_stays(store: Store, tmp_path: Path) -> None:
    """Older versions let users set them."""
    students = (STATIC, SMALL, LARGE, ON_ENGINE)
    study = front_beside("older", ON_ENGINE)
    register_front(store, study, page=report_html, folders=folders(tmp_path, students))
    client = client_of(store)
    own = {"teacher": "1", "static-table": "2", "teacher-on-torch": "3"}
    for alias, version in own.items():
        client.set_registered_model_alias("older", alias, version)
    set_alias(store, "older", "1", "teacher-on-call")
    own["teacher-on-call"] = "1"
    folders_again = folders(tmp_path / "again", students)
    read = register_front(store, study, page=report_html, folders=folders_again)
    present = {alias: str(version) for alias, version in client.get_registered_model("older").aliases.items()}
    assert own.items() <= present.items() and present["teacher-on-engine"] == "4"
    versions = {one.name: one.version for one in read.references}
    assert versions == {"teacher": None, "teacher-on-engine": "4", "static-table": None}
    assert read == load_front(store, "older")


def test_a_reference_that_is_beaten_later_keeps_its_version_but_not_its_alias(store: Store, tmp_path: Path) -> None:
    students = (STATIC, SMALL, LARGE, ON_ENGINE)
    register_front(store, front_beside("grown", ON_ENGINE), page=report_html, folders=folders(tmp_path, students))
    better = entry("trial-0009", 3, 4.0, 0.9996)
    grown = front("grown", (STATIC, SMALL, better))
    grown = replace(grown, references=front_beside("grown", ON_ENGINE).references)
    register_front(store, grown, page=report_html, folders=folders(tmp_path, (STATIC, SMALL, better), seed=1))
    assert all(entry.version is None for entry in load_front(store, "grown").references)
    assert "teacher-on-engine" not in client_of(store).get_registered_model("grown").aliases
    tags = {each.tags["student"]: each.tags for each in versions_of(client_of(store), "grown")}
    assert tags["teacher-on-engine"]["on_front"] == "false"
    assert [entry.name for entry in load_front(store, "grown").students] == ["trial-0000", "trial-0001", "trial-0009"]


# Trials.


def trial_runs(store: Store, study: str) -> dict[str, dict[str, str]]:
    client = client_of(store)
    experiment = client.get_experiment_by_name(study).experiment_id
    return {run.data.tags[Tag.TRIAL]: run.data.tags for run in runs_of_kind(client, experiment, "trial")}


def test_a_trial_is_one_run_with_its_curve_over_tokens(store: Store) -> None:
    log = TrialLog(store, "curves", params={RunParam.HELD_OUT_SENTENCES: 7}, objective=COSINE, teacher_latency_ms=8.0)
    log.write(record(3))
    log.write(record(3, rungs=[0.8]))
    log.write(record(3, rungs=[0.8, 0.9]))
    log.write(record(3, rungs=[0.8, 0.9], state=TrialState.COMPLETE, outcome=Outcome(OutcomeKind.COMPLETE)))
    client = client_of(store)
    run = client.get_run(log.run_id("trial-0003"))
    history = client.get_metric_history(run.info.run_id, "fidelity/cosine")
    assert [(point.step, point.value) for point in history] == [(1000, 0.8), (2000, 0.9)]
    assert run.info.status == "FINISHED"
    assert run.data.tags["understudy.outcome"] == "complete"
    assert run.data.params["n_layers"] == "2"
    assert run.data.params["spec.encoder.width"] == "8"
    assert run.data.params["recipe.losses.cosine"] == "1.0"
    assert run.data.params["seed"] == "5"
    assert run.data.params["held_out_sentences"] == "7"
    assert run.data.params["device"]
    assert run.data.metrics["cost/seconds"] == 3.0
    assert run.data.metrics["score"] == pytest.approx(np.log2(10.0) + 0.5)  # error 0.1, twice the teacher's speed
    (point,) = load_trials(store, "curves", COSINE)
    assert (point.name, point.state, point.latency_ms, point.fidelity) == ("trial-0003", "complete", 4.0, 0.9)
    graduated = record(3, rungs=[0.8, 0.9, 0.99], state=TrialState.COMPLETE, outcome=Outcome(OutcomeKind.GRADUATED))
    log.write(graduated)
    (point,) = load_trials(store, "curves", COSINE)
    assert (point.state, point.fidelity) == ("complete", None)  # 0.99 is no brief trial's


def test_states_are_told_as_they_are(store: Store) -> None:
    log = TrialLog(store, "states", params={}, objective=COSINE)
    log.write(record(0))
    log.write(record(0, rungs=[0.7], state=TrialState.PRUNED, outcome=Outcome(OutcomeKind.DOMINATED, "by 3 trials")))
    log.write(record(1))
    log.write(record(1, state=TrialState.FAILED, outcome=Outcome(OutcomeKind.NOT_FINITE, "loss is nan")))
    refused = record(2, state=TrialState.REFUSED, outcome=Outcome(OutcomeKind.CANNOT_BE_BUILT))
    refused = replace(refused, spec=None, recipe=None)
    log.write(replace(refused, predicted_latency_ms=None))
    client = client_of(store)
    statuses = [client.get_run(log.run_id(f"trial-000{i}")).info.status for i in range(3)]
    assert statuses == ["FINISHED", "FAILED", "FINISHED"]  # MLflow's UI shows KILLED as it shows FAILED
    states = [client.get_run(log.run_id(f"trial-000{i}")).data.tags["understudy.state"] for i in range(3)]
    assert states == ["pruned", "failed", "refused"]
    assert [trial.outcome for trial in load_trials(store, "states", COSINE)] == [
        "dominated: by 3 trials",
        "not finite: loss is nan",
        "cannot be built",
    ]


def test_a_run_that_an_older_version_ended_keeps_its_end(store: Store) -> None:
    log = TrialLog(store, "older", params={}, objective=COSINE)
    pruned = record(0, rungs=[0.7], state=TrialState.PRUNED, outcome=Outcome(OutcomeKind.DOMINATED, "by 3 trials"))
    log.write(pruned)
    run = log.run_id("trial-0000")
    assert run is not None
    client_of(store).set_terminated(run, status="KILLED", end_time=1_700_000_000_000)
    log.forget()
    log.write(pruned)
    info = client_of(store).get_run(run).info
    assert (info.status, info.end_time) == ("FINISHED", 1_700_000_000_000)


def test_a_resumed_search_goes_on_in_the_same_runs(store: Store) -> None:
    killed = TrialLog(store, "resumed", params={}, objective=COSINE)
    killed.write(record(0))
    killed.write(record(0, rungs=[0.9], state=TrialState.COMPLETE))
    killed.write(record(1))
    killed.write(record(1, rungs=[0.8]))

    log = TrialLog(store, "resumed", params={RunParam.CORPUS_KEY: "another"}, objective=COSINE)
    log.write(record(1, rungs=[0.8], state=TrialState.INTERRUPTED))
    assert trial_runs(store, "resumed")["trial-0001"]["understudy.state"] == "interrupted"
    log.write(record(2, rungs=[0.8], continues=1))
    log.write(record(2, rungs=[0.8, 0.85], state=TrialState.COMPLETE, continues=1))
    assert sorted(trial_runs(store, "resumed")) == ["trial-0000", "trial-0002"]
    history = client_of(store).get_metric_history(log.run_id("trial-0002"), "fidelity/cosine")
    assert [(point.step, point.value) for point in history] == [(1000, 0.8), (2000, 0.85)]


def test_ends_that_a_killed_driver_did_not_write_are_caught_up(store: Store) -> None:
    TrialLog(store, "caught-up", params={}, objective=COSINE).write(record(0))
    log = TrialLog(store, "caught-up", params={}, objective=COSINE)
    interrupted = record(1, state=TrialState.INTERRUPTED)
    goes_on = record(2, rungs=[0.7], state=TrialState.PRUNED, continues=1)
    records = [record(0, rungs=[0.9], state=TrialState.COMPLETE), interrupted, goes_on]
    with TrialWriter(log, address="the store", say=print) as writer:
        writer.backfill(records)
        writer.finish(records)
    states = {name: tags["understudy.state"] for name, tags in trial_runs(store, "caught-up").items()}
    assert states == {"trial-0000": "complete", "trial-0002": "pruned"}


def test_a_registered_student_comes_from_its_trials_run(store: Store, tmp_path: Path) -> None:
    log = TrialLog(store, "sourced", params={}, objective=COSINE)
    log.write(record(1, rungs=[0.9], state=TrialState.COMPLETE))
    client = client_of(store)
    before = client.get_run(log.run_id("trial-0001")).info
    register_front(store, front("sourced", (SMALL,)), page=report_html, folders=folders(tmp_path))
    assert client.get_model_version("sourced", "1").run_id == log.run_id("trial-0001")
    run = client.get_run(log.run_id("trial-0001"))
    assert (run.info.status, run.info.end_time) == (before.status, before.end_time)
    assert run.data.metrics["measured/latency_ms"] == 2.0
    assert run.data.tags[Tag.KIND] == "trial"


def test_mlflows_own_experiment_is_not_a_study(store: Store) -> None:
    with pytest.raises(ValueError, match="MLflow's own"):
        study_experiment(store, "Default")


# Report and embedding of what is registered.


def test_the_report_of_a_study_is_written_whole(
    store: Store, registered: tuple[str, dict[str, Path]], tmp_path: Path
) -> None:
    out = write_report(store, "shared", tmp_path / "front.html")
    assert "trial-0001" in out.read_text("utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["front.html"]
    with pytest.raises(ValueError, match="a folder that exists"):
        write_report(store, "shared", tmp_path / "missing" / "front.html")


def test_a_file_is_embedded_by_a_registered_model(
    store: Store, registered: tuple[str, dict[str, Path]], tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES))
    out = embed_file(store, "shared@fastest", tmp_path / "text.txt")
    assert out == tmp_path / "text.txt.npy"
    expected = load(registered[1]["trial-0000"]).encode(SENTENCES)
    np.testing.assert_array_equal(np.load(out, allow_pickle=False), expected)
