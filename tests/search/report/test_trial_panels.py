# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
import os
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from threadpoolctl import threadpool_info

from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import TrialPoint, TrialState
from search.report.load import MAX_ERROR_CHARACTERS, read_search
from search.report.page import report_html
from search.report.parallel_coordinates import AXIS_PX, LEFT, MOST_OPTIONS, parallel_coordinates
from search.report.review import N_MODELS, review_search
from search.report.trial_panels import format_parameter, trial_panels, trials_table, why
from search.storage.error_files import write_error
from search.storage.store import Store
from tests.search.report.test_page import HOSTILE, Page, front
from tests.search.toy_search import record_search, rung

SVG = "{http://www.w3.org/2000/svg}"
LOG = "Traceback (most recent call last):\nZeroDivisionError: division by zero"


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """A search of 24 trials, of which one has a log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        store = Store(tmp_path_factory.mktemp("store"))
        record_search(store, n_trials=24)
        write_error(store.study_folder("toy"), "trial-0003", "line\n" * MAX_ERROR_CHARACTERS + LOG)
        yield read_search(store, "toy")


@pytest.fixture(scope="module")
def review(search):
    return review_search(search)


def data_of(review):
    document = json.loads(Page(report_html(front(), (), review)).scripts[0])
    return {entry["name"]: entry for key, entry in document.items() if key.startswith("t")}


def test_every_trial_has_a_panel_with_parameters_curve_and_end(review):
    data = data_of(review)
    assert set(data) == {record.name for record in review.records}
    for record in review.records:
        panel = data[record.name]
        assert panel["parameters"] == {name: format_parameter(value) for name, value in record.point.items()}
        assert [(point["tokens"], point["value"]) for point in panel["curve"]] == [
            (one.n_tokens, one.fidelity.cosine) for one in record.rungs
        ]
        assert panel["state"] == record.state.value and panel["why"]
        if record.state is TrialState.PRUNED:
            assert panel["rivals"] == [f"trial-{number:04d}" for number in record.outcome.rivals] != []
            assert set(panel["rivals"]) <= set(data)


def test_a_curve_begins_before_training_where_that_was_measured(review):
    record = next(record for record in review.records if record.rungs)
    start = replace(record.rungs[0].fidelity, cosine=0.25)
    rungs = (replace(record.rungs[0], untrained=start), *record.rungs[1:])
    [panel] = trial_panels(replace(review, records=(replace(record, rungs=rungs),)))
    assert panel["curve"][0] == {"tokens": 0, "value": 0.25, "shown": "0.2500", "loss": ""}
    assert [point["tokens"] for point in panel["curve"][1:]] == [rung.n_tokens for rung in rungs]


def test_a_log_is_cut_to_its_end(review):
    logs = {name: panel["log"] for name, panel in data_of(review).items() if panel["log"]}
    assert set(logs) == {"trial-0003"}
    assert logs["trial-0003"].endswith(LOG) and len(logs["trial-0003"]) <= MAX_ERROR_CHARACTERS
    assert set(logs["trial-0003"].removesuffix(LOG).splitlines()) == {"line"}


@pytest.mark.parametrize("kind", OutcomeKind)
def test_every_end_has_a_reason_in_words(kind):
    words = why(Outcome(kind, "at 3 of 4 tokens"))
    assert "At 3 of 4 tokens." in words or "at 3 of 4 tokens" in words
    assert len(words) > len("At 3 of 4 tokens.")
    assert why(Outcome(OutcomeKind.EXCEPTION, "division by zero", exception="ZeroDivisionError")).endswith(
        "ZeroDivisionError: division by zero."
    )
    assert why(None) == "It has not ended."


def test_the_table_lists_all_trials_with_their_parameters(review):
    table = ElementTree.fromstring(trials_table(review, lambda name: f"key-{name}"))
    rows = list(table.iter("tr"))[1:]
    assert [row.attrib["id"] for row in rows] == [record.name for record in review.records]
    heads = ["".join(head.itertext()) for head in table.find(".//thead/tr")]
    assert {"trial", "state", "fidelity", "ms", "n layers", "learning rate"} <= set(heads)
    for row, record in zip(rows, review.records, strict=True):
        shown = dict(zip(heads, ("".join(cell.itertext()) for cell in row), strict=True))
        assert shown["trial"] == record.name and shown["state"] == record.state.value
        assert shown["fidelity"] == (f"{record.fidelity.cosine:.4f}" if record.fidelity else "")
        assert shown["n layers"] == format_parameter(record.point["n_layers"])


def test_brief_trials_are_shown_at_their_brief_values(review):
    """What MLflow holds of a graduate is its fidelity after graduation; the journal's is the brief one."""
    record = next(one for one in review.records if one.state is TrialState.COMPLETE)
    later = replace(TrialPoint.of(record, review.objective), fidelity=0.9999)
    document = json.loads(Page(report_html(front(), (later,), review)).scripts[0])
    shown = next(entry for key, entry in document.items() if key.startswith("t") and entry["name"] == record.name)
    assert shown["shown"] == f"{record.fidelity.cosine:.4f}"


def test_lines_go_through_the_values_of_their_trials(review):
    complete = [record for record in review.records if record.state is TrialState.COMPLETE]
    chosen = complete[0].name
    root = ElementTree.fromstring(parallel_coordinates(review, {chosen}))
    lines = {group.find(f"{SVG}title").text.partition(":")[0]: group for group in root.iter(f"{SVG}g")}
    assert set(lines) == {record.name for record in complete}
    titles = [element.text for element in root.iter(f"{SVG}text") if element.attrib["class"] == "label strong"]
    assert titles[-2:] == ["latency, ms", "fidelity"]
    heights = {}
    for record in complete:
        path = lines[record.name].find(f"{SVG}path")
        assert ("on-front" in path.attrib["class"]) == (record.name == chosen)
        places = {float(x): float(y) for x, y in re.findall(r"[ML](\S+?) ([\d.]+)", path.attrib["d"])}
        heights[record.name] = [places.get(float(LEFT + i * AXIS_PX)) for i in range(len(titles))]
    depth, fidelity = titles.index("n layers"), len(titles) - 1
    for one in complete:
        for other in complete:
            if one.fidelity.cosine < other.fidelity.cosine:  # higher is more
                assert heights[one.name][fidelity] >= heights[other.name][fidelity]
            if one.point["n_layers"] < other.point["n_layers"]:
                assert heights[one.name][depth] > heights[other.name][depth]
        if "units" not in one.point:
            assert heights[one.name][titles.index("units")] is None
    assert parallel_coordinates(replace(review, records=complete[:1]), set()) == ""


@pytest.mark.parametrize("n_options", [3, 12, 13, 30])
def test_a_line_crosses_the_axis_of_a_dimension_with_any_number_of_options(review, n_options):
    first = next(record for record in review.records if record.state is TrialState.COMPLETE)
    names = [f"option-{i:02d}" for i in range(n_options)]
    records = [replace(first, number=i, point={"option": name}) for i, name in enumerate(names)]
    records.append(replace(first, number=n_options, point={}))
    root = ElementTree.fromstring(parallel_coordinates(replace(review, records=tuple(records)), set()))
    paths = [path.attrib["d"] for path in root.iter(f"{SVG}path")]
    heights = [re.findall(rf"M{LEFT} ([\d.]+)", path) for path in paths]
    assert sorted(map(len, heights)) == [0] + [1] * n_options  # only a trial without the dimension has a gap
    assert len({height for found in heights for height in found}) == n_options
    shown = [element.text for element in root.iter(f"{SVG}text") if element.text in names]
    assert len(shown) <= MOST_OPTIONS and shown == names[:: math.ceil(n_options / MOST_OPTIONS)]


def test_the_lines_of_students_on_the_front_alone_stand_out(review):
    on_front, beaten, *_ = [one.name for one in review.records if one.state is TrialState.COMPLETE]
    document = front()
    students = (document.students[0].changed(name=on_front), *document.students[1:])
    page = report_html(
        replace(document, students=students, dominated=(document.dominated[0].changed(name=beaten),)), (), review
    )
    complete = {one.name for one in review.records if one.state is TrialState.COMPLETE}
    n_front = len({one.name for one in students} & complete)
    assert page.count('class="line on-front"') == n_front
    assert f"{n_front} of them are students on the front" in page
    assert re.search(rf'class="line" d="[^"]*"/><title>{beaten}:', page)


def test_one_trial_of_each_state_and_hostile_words_make_a_page(review):
    first = next(record for record in review.records if record.state is TrialState.COMPLETE)
    failed = Outcome(OutcomeKind.EXCEPTION, HOSTILE, exception="ValueError")
    records = [
        replace(first, number=900 + i, state=state, outcome=failed, rungs=(rung(100, 0.9),)[: i % 2])
        for i, state in enumerate(TrialState)
    ]
    records.append(replace(first, number=990, spec=None, recipe=None, predicted_latency_ms=None, rungs=(), point={}))
    changed = replace(review, records=tuple(records), errors={"trial-0900": HOSTILE})
    plain = replace(changed, errors={"trial-0900": "x"})
    pages = [Page(report_html(front(), (), one)) for one in (changed, plain)]
    assert [tag for tag, _ in pages[0].tags] == [tag for tag, _ in pages[1].tags]
    assert json.loads(pages[0].scripts[0])["t0"]["log"] == HOSTILE
    assert len(trial_panels(changed)) == len(records)


def test_the_analysis_tells_its_progress_and_leaves_the_cores_alone(search):
    """The products are small: with a thread for each core, threads that wait take most of the time."""
    seen = []

    def progress(done, total):
        threads = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
        seen.append((done, total, max(threads, default=1)))

    review_search(search, progress=progress)
    assert seen == [(done, N_MODELS + 1, 1) for done in range(1, N_MODELS + 2)]
