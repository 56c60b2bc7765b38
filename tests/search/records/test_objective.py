# SPDX-License-Identifier: Apache-2.0
"""Every part of a search asks the study's objective, and reads no measurement of its own."""

from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from search.cli.main import main
from search.cli.search_summary import search_lines
from search.console.front_table import print_front
from search.console.live_table import LiveTable
from search.graduation.select import choose_graduates
from search.optimiser.pareto import non_dominated
from search.records.front import Front, MeasuredStudent
from search.records.front_table import front_markdown
from search.records.objective import (
    COSINE,
    COSINE_CENTRED,
    MEASUREMENTS,
    OVERLAP_AT_10,
    SPEARMAN,
    Objective,
    objective_from_json,
    objective_of,
)
from search.records.score import score
from search.records.selection import balanced, select_student
from search.records.trial import TrialRecord, TrialState
from search.report.load import read_search
from search.report.page import report_html
from search.report.review import review_search
from search.storage.store import Store
from search.storage.study_state import StudyState
from search.study.search import identity_of
from search.tracking.client import client_of, create_store
from search.tracking.experiment import runs_of_kind
from search.tracking.publish import register_front
from search.tracking.registry import load_front, load_trials
from search.tracking.select import select
from search.tracking.trial_runs import TrialLog
from search.trials.journal import read_study, read_trials
from spaces.objective import FidelityMeasure, ObjectiveSpec
from spaces.profile import LatencyProfile
from spaces.study import StudyError, parse_study
from spaces.study.spec import StudySpec
from tests.search.cli_world import write_student
from tests.search.tiny_records import record, spec_of
from tests.search.toy_search import fidelity_of, record_search
from trainers.measure.fidelity import Fidelity

ROOT = Path(__file__).resolve().parents[3]
ALL = {FidelityMeasure.COSINE: COSINE, FidelityMeasure.COSINE_CENTRED: COSINE_CENTRED}
ALL |= {FidelityMeasure.SPEARMAN: SPEARMAN, FidelityMeasure.OVERLAP_AT_10: OVERLAP_AT_10}


def opposed(spearman: float) -> Fidelity:
    """A fidelity whose other measurements say the opposite of its rank correlation."""
    other = 1.0 - spearman
    return Fidelity(
        cosine=other,
        cosine_p5=other,
        cosine_centred=other,
        spearman=spearman,
        overlap_at_1=other,
        overlap_at_10=other,
        constant_baseline=0.3,
    )


# The value


@pytest.mark.parametrize("measure", FidelityMeasure)
def test_every_choice_of_a_study_is_the_field_of_its_name(measure: FidelityMeasure) -> None:
    values = {part.name: i / 10 for i, part in enumerate(fields(Fidelity))}
    objective = objective_of(ObjectiveSpec(fidelity=measure))
    assert objective is ALL[measure]
    assert objective.of(Fidelity(**values)) == objective.of_json(values) == values[measure]
    assert objective_from_json(ObjectiveSpec(fidelity=measure).to_json()) is objective


@pytest.mark.parametrize("objective", ALL.values(), ids=lambda one: one.name)
def test_the_error_falls_from_the_worst_to_the_best_value_and_never_to_nothing(objective: Objective) -> None:
    assert objective.error(objective.low) == objective.high - objective.low
    assert objective.error(0.75) == 0.25
    assert objective.error(objective.high) == objective.least_error > 0.0
    assert objective.at_error(objective.error(0.75)) == 0.75
    with pytest.raises(ValueError, match="must lie in"):
        objective.require("min_fidelity", objective.low - 0.1)


def test_tables_show_every_measurement_but_the_baseline() -> None:
    assert [one.field for one in MEASUREMENTS] == [part.name for part in fields(Fidelity)][:-1]


# The study


STUDY = """
name: study
teachers: [hub:organisation/name]
corpus: {sources: [installed-docs]}
search: {rungs: [1000], time_budget: 1h}
space: {n_layers: {low: 0, high: 2}}
"""


def test_a_study_without_the_key_maximises_the_cosine_and_is_the_study_that_it_was() -> None:
    study = parse_study(STUDY)
    assert study.objective == ObjectiveSpec(fidelity=FidelityMeasure.COSINE)
    assert "objective" not in study.to_json()
    assert parse_study(STUDY + "objective: {fidelity: cosine}").to_json() == study.to_json()


def test_a_study_file_names_its_objective_and_a_misspelt_one_is_explained() -> None:
    study = parse_study(STUDY + "objective: {fidelity: spearman}")
    assert study.objective.fidelity is FidelityMeasure.SPEARMAN
    assert parse_study(json.dumps(study.to_json())) == study
    with pytest.raises(StudyError, match="did you mean spearman"):
        parse_study(STUDY + "objective: {fidelity: spearmann}")


@pytest.mark.parametrize("first", ["", "objective: {fidelity: spearman}"])
def test_another_objective_is_another_study(tmp_path: Path, first: str) -> None:
    state = StudyState(tmp_path)
    before = parse_study(STUDY + first)
    state.claim(before)
    state.claim(before)
    other: StudySpec = replace(before, objective=ObjectiveSpec(fidelity=FidelityMeasure.OVERLAP_AT_10))
    for changed in (other, parse_study(STUDY)) if first else (other,):
        with pytest.raises(ValueError, match="another objective"):
            state.claim(changed)


def test_a_journal_is_continued_with_its_objective_alone() -> None:
    prepared = {"teachers": "digest", "corpus": "key"}
    default, other = parse_study(STUDY), parse_study(STUDY + "objective: {fidelity: spearman}")
    identity = identity_of(default, prepared)
    assert "objective" not in identity and identity["corpus"] == "key"
    assert identity_of(other, prepared) == identity | {"objective": {"fidelity": "spearman"}}


# The search


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A searched toy study whose students are judged by their rank correlation: the cosine says the opposite."""
    store = create_store(Store(tmp_path_factory.mktemp("objective") / "store"))
    log = TrialLog(store, "toy", params={}, objective=SPEARMAN, teacher_latency_ms=8.0)
    record_search(store, n_trials=20, objective=SPEARMAN, fidelity=opposed)
    for one in read_trials(store.study_folder("toy"), "toy"):
        log.write(one)
    return store


def test_a_search_selects_prunes_and_reports_by_its_objective(store: Store) -> None:
    folder = store.study_folder("toy")
    records = read_trials(folder, "toy")
    complete = [one for one in records if one.state is TrialState.COMPLETE]
    points = [(one.predicted_latency_ms, one.fidelity.spearman) for one in complete]
    best = {points[i] for i in non_dominated(points)}

    # Optuna is told the rank correlation.
    study = read_study(folder, "toy")
    assert study is not None
    assert {tuple(study.trials[one.number].values) for one in complete} == set(points)

    # A pruned trial had less of it, at the same rung, than one that was no slower.
    pruned = [one for one in records if one.state is TrialState.PRUNED]
    assert pruned
    for one in pruned:
        k = len(one.rungs) - 1
        rivals = [other for other in records if len(other.rungs) > k and other.number != one.number]
        rivals = [other for other in rivals if other.predicted_latency_ms <= one.predicted_latency_ms]
        assert max(other.rungs[k].fidelity.spearman for other in rivals) > one.rungs[k].fidelity.spearman

    # The page's own account of the search.
    search = read_search(store, "toy")
    assert search is not None and search.objective is SPEARMAN
    review = review_search(search)
    shown = [one.record for one in review.positions if one.on_front]
    assert {(one.predicted_latency_ms, one.fidelity.spearman) for one in shown} == best
    assert review.ideal is not None and review.history is not None
    assert review.ideal[1] == pytest.approx(1.0 - max(value for _, value in points))
    assert all(step.hypervolume > 0.0 for step in review.history.steps[-1:])
    most = max(value for _, value in points)
    page = report_html(front_of([]), (), review)
    assert f"{most:.4f}" in page
    assert all(f'<td class="number">{one.rungs[-1].fidelity.spearman:.4f}</td>' in page for one in pruned)
    assert "fidelity" in search_lines(review)


def test_graduates_are_chosen_by_the_objective() -> None:
    def trial(number: int, latency_ms: float, spearman: float) -> TrialRecord:
        rungs = tuple(replace(rung, fidelity=opposed(spearman)) for rung in record(0, rungs=[0.5]).rungs)
        made = record(number, state=TrialState.COMPLETE)
        return replace(made, predicted_latency_ms=latency_ms, rungs=rungs, checkpoint=Path("there"))

    broken = trial(2, 0.5, math.nan)
    broken = replace(
        broken, rungs=tuple(replace(one, fidelity=replace(one.fidelity, cosine=0.9)) for one in broken.rungs)
    )
    assert choose_graduates([broken], max_students=1, objective=SPEARMAN) == []
    good, bad = trial(0, 1.0, 0.9), trial(1, 2.0, 0.5)  # by its cosine the second would be on the front, too
    assert choose_graduates([good, bad], max_students=1, objective=SPEARMAN) == [good]
    assert choose_graduates([good, bad], max_students=8, objective=SPEARMAN) == [good]
    assert choose_graduates([good, bad], max_students=8, objective=COSINE) == [good, bad]


# The front


def student(name: str, latency_ms: float, spearman: float, *, n_layers: int = 0) -> MeasuredStudent:
    return MeasuredStudent.measured(
        name,
        spec_of(n_layers),
        latency_ms=latency_ms,
        latency_interval_ms=(0.9 * latency_ms, 1.1 * latency_ms),
        teacher_latency_ms=8.0,
        fidelity=opposed(spearman),
    )


FAST, MIDDLE, SLOW, BEATEN = (
    student("trial-0001", 1.0, 0.6),
    student("trial-0002", 1.5, 0.85),
    student("trial-0003", 4.0, 0.9),
    student("trial-0004", 5.0, 0.7),  # by its cosine it would be on the front
)


def front_of(students: list[MeasuredStudent]) -> Front:
    return Front.of(
        "toy",
        teacher="teacher",
        profile=LatencyProfile(),
        objective=SPEARMAN,
        references=[student("teacher", 8.0, 0.999), student("static-table", 3.0, 0.8)],
        students=students,
    )


def test_a_front_compares_by_its_objective_and_is_read_back_with_it() -> None:
    front = front_of([FAST, MIDDLE, SLOW, BEATEN])
    assert front.students == (FAST, MIDDLE, SLOW)
    assert Front.from_record(json.loads(json.dumps(front.to_record()))) == front
    assert "objective" not in front.to_json()
    before = {key: value for key, value in front.to_record().items() if key != "objective"}
    assert Front.from_record(before).objective is COSINE


def test_a_reference_dominates_by_the_objective() -> None:
    front = front_of([FAST, student("trial-0005", 3.5, 0.75)])
    assert [(one.name, one.dominated_by) for one in front.dominated] == [("trial-0005", "static-table")]


def test_a_student_is_selected_by_the_objective() -> None:
    front = front_of([FAST, MIDDLE, SLOW])
    assert select_student(front, max_latency_ms=2.0) == MIDDLE
    assert select_student(front, min_fidelity=0.61) == MIDDLE
    with pytest.raises(ValueError, match=r"nearest is trial-0003 .* fidelity of 0\.9000"):
        select_student(front, min_fidelity=0.95)
    with pytest.raises(ValueError, match="rank correlation"):
        select_student(front, min_fidelity=1.5)


def test_the_knee_is_that_of_the_objective() -> None:
    students = [student(f"s{i}", i + 1.0, spearman) for i, spearman in enumerate((0.5, 0.8, 0.85, 0.9))]
    assert balanced(students, SPEARMAN) == 1
    assert balanced(students, COSINE) == 2


def test_what_is_registered_is_chosen_by_the_objective(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    students = [FAST, MIDDLE, SLOW]
    folders = {one.name: tmp_path / one.name for one in students}
    for i, one in enumerate(students):
        write_student(folders[one.name], spec_of(0), seed=i)
    register_front(store, front_of(students), page=report_html, folders=folders)
    front = load_front(store, "toy")
    assert front.objective is SPEARMAN
    aliases = {one.name: one.aliases for one in front.students}
    assert aliases == {FAST.name: ("fastest",), MIDDLE.name: ("balanced",), SLOW.name: ("most-faithful",)}
    assert select(store, "toy", min_fidelity=0.88).name == SLOW.name
    assert main(["select", "toy", "--store", str(store.root), "--min-fidelity", "0.61"]) == 0
    assert "rank correlation of similarities 0.8500" in capsys.readouterr().err


def test_runs_have_their_score_and_their_points_by_the_objective(store: Store) -> None:
    client = client_of(store)
    experiment = client.get_experiment_by_name("toy").experiment_id
    runs = {run.info.run_name: run for run in runs_of_kind(client, experiment, "trial")}
    shown = {trial.name: trial.fidelity for trial in load_trials(store, "toy", SPEARMAN)}
    measured = [one for one in read_trials(store.study_folder("toy"), "toy") if one.rungs]
    assert measured
    for one in measured:
        value = one.rungs[-1].fidelity.spearman
        assert shown[one.name] == pytest.approx(value)
        expected = score(1.0 - value, 8.0 / one.predicted_latency_ms)
        assert runs[one.name].data.metrics["score"] == pytest.approx(expected)


# What people see


def test_tables_and_pages_name_and_show_the_objective(capsys: pytest.CaptureFixture[str]) -> None:
    front = front_of([FAST, MIDDLE, SLOW])
    print_front(front)
    terminal = " ".join(capsys.readouterr().out.split())
    page = report_html(front)
    for text in (terminal, front_markdown(front), page):
        assert SPEARMAN.label in text
    assert "fidelity 0.8500" in page
    assert f"fidelity: {SPEARMAN.label}</text>" in page
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[0])
    assert [data[f"s{i}"]["value"] for i in range(3)] == [0.6, 0.85, 0.9]
    heights = {key: float(y) for key, y in re.findall(r'id="mark-(s\d)".*?translate\([\d.]+ ([\d.]+)\)', page)}
    assert heights["s0"] > heights["s1"] > heights["s2"]


def test_the_live_table_shows_the_objective(capsys: pytest.CaptureFixture[str]) -> None:
    rungs = tuple(replace(rung, fidelity=opposed(0.8125)) for rung in record(0, rungs=[0.5]).rungs)
    LiveTable(n_rungs=1, objective=SPEARMAN).rung_reached(replace(record(0), rungs=rungs))
    assert "fidelity 0.8125" in capsys.readouterr().err


# Nobody reads a measurement himself

ALLOWED = {
    "trainers/measure/fidelity.py": "makes the measurements",
    "search/export/sentence_transformers.py": "the similarity that sentence-transformers is told to use",
    "trainers/distil/objective.py": "the weight of a training loss of the same name",
    "trainers/teacher/layout.py": "the function that a teacher's vectors are compared by",
    "trainers/teacher/load.py": "the function that a teacher's vectors are compared by",
    "trainers/distil/loop.py": "the error that a relative learning rate multiplies is the training loss's",
    "search/tracking/metrics.py": "every field, as a metric",
}


def measurements_read(path: Path) -> list[str]:
    """Measurements of a fidelity that a module names as attributes or keys."""
    names = {part.name for part in fields(Fidelity)} - {"constant_baseline"}
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in names:
            found.append(f"{node.lineno}: .{node.attr}")
        elif isinstance(node, ast.Constant) and re.search(rf"(^|[/.])({'|'.join(names)})$", str(node.value)):
            found.append(f"{node.lineno}: {node.value!r}")
    return found


def test_only_the_objective_reads_measurements() -> None:
    paths = [path for room in ("search", "trainers") for path in (ROOT / room).rglob("*.py")]
    found = {str(path.relative_to(ROOT)): read for path in paths if (read := measurements_read(path))}
    assert set(found) - set(ALLOWED) == {"search/records/objective.py"}, found


def test_the_page_reads_no_measurement_either() -> None:
    script = (ROOT / "search" / "report" / "assets" / "page.js").read_text("utf-8")
    assert re.findall(r"\b(?:cosine|spearman|overlap_at)\w*", script) == []


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [(0.99998, 0.99997, False), (0.99, 0.98, True), (0.98, 0.99, False), (None, 0.1, False)],
)
def test_a_fidelity_is_worse_by_more_than_rounding(before: float | None, after: float, worse: bool) -> None:
    assert COSINE.worsened(None if before is None else fidelity_of(before), fidelity_of(after)) is worse
