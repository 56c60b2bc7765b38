# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import os
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from search.cli.search_summary import search_lines
from search.records.objective import COSINE
from search.records.outcomes import Outcome, OutcomeKind
from search.records.trial import TrialPoint, TrialState
from search.report.gaps_chart import shown_gaps
from search.report.history import history_of
from search.report.load import read_search
from search.report.page import report_html
from search.report.review import SobolIndices, review_search
from search.report.search_charts import share_of_ideal
from search.report.search_section import search_section
from search.report.svg import duration, ticks
from search.storage.store import Store
from spaces.student_words import describe
from tests.search.report.test_page import HOSTILE, Page, front
from tests.search.toy_search import record_search

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def review(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        store = Store(tmp_path_factory.mktemp("store"))
        record_search(store, n_trials=20)
    return review_search(read_search(store, "toy"))


def trials_of(review):
    return tuple(
        TrialPoint(
            name=record.name,
            student=describe(record.spec),
            state=record.state.value,
            outcome=str(record.outcome or ""),
            latency_ms=record.predicted_latency_ms,
            fidelity=record.fidelity.cosine if record.fidelity else None,
            n_tokens=record.n_tokens,
        )
        for record in review.records
    )


def drawings(html):
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def test_every_drawing_says_what_it_shows_and_stays_within_its_frame(review):
    found = drawings(search_section(review, lambda name: None))
    assert len(found) == 5  # hypervolume twice, rungs, dimensions, gaps
    for root in found:
        assert root.attrib["role"] == "img" and root.attrib["aria-label"]
        description = root.find(f"{SVG}desc")
        assert description.attrib["id"] == root.attrib["aria-describedby"] and description.text
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for element in root.iter():
            for name, limit in (("x", width), ("cx", width), ("x2", width), ("y", height), ("cy", height)):
                if name in element.attrib and "transform" not in element.attrib:
                    assert -8.0 <= float(element.attrib[name]) <= limit + 1.0
            if element.tag == f"{SVG}rect" and "y" in element.attrib:
                assert float(element.attrib["x"]) + float(element.attrib["width"]) <= width + 1.0


def test_the_names_of_dimensions_do_not_reach_into_the_bars(review):
    dimension = replace(review.fidelity.dimensions[0], name="static_embedding_dim")  # the longest
    long = replace(review, fidelity=SobolIndices(dimensions=(dimension,), explained=0.9))
    found = drawings(search_section(long, lambda name: None))
    root = next(root for root in found if "Sobol" in root.attrib["aria-label"])
    label = next(text for text in root.iter(f"{SVG}text") if text.text == "static embedding dim")
    assert float(label.attrib["x"]) - 6.4 * len(label.text) > 0.0


def test_every_number_of_a_drawing_is_in_a_table(review):
    text = re.sub(r"<svg.*?</svg>", "", search_section(review, lambda name: None), flags=re.DOTALL)
    for step in review.history.steps:
        assert step.record.name in text and f"{step.n_tokens:,}" in text
    for each in review.fidelity.dimensions + review.latency.dimensions:
        assert f"{each.low:.3f} to {each.high:.3f}" in text
    for each in review.pruned:
        assert all(rival.name in text for rival in each.rivals)


def test_a_pruned_trial_links_to_those_that_dominated_it(review):
    text = report_html(front(), trials_of(review), review)
    page = Page(text)
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    targets = [attributes["href"] for name, attributes in page.tags if name == "a"]
    assert targets and {target.removeprefix("#") for target in targets} <= ids
    assert len(ids) == len([attributes for _, attributes in page.tags if "id" in attributes])  # each id once
    names = {rival.name for each in review.pruned for rival in each.rivals}
    linked = set(re.findall(r'class="trial-link"[^>]*>(trial-\d+)</a>', text))
    assert names and names <= linked


def test_the_page_with_its_search_loads_nothing(review):
    page = Page(report_html(front(), trials_of(review), review))
    addresses = {
        value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href", "action")
    }
    assert {address for address in addresses if not address.startswith("#")} == {"data:,"}


def test_no_outcome_of_a_trial_becomes_markup(review):
    outcome = Outcome(OutcomeKind.DOMINATED, HOSTILE)
    hostile = replace(review.pruned[0], rivals=(), record=replace(review.pruned[0].record, outcome=outcome))
    students = dict.fromkeys(review.students, HOSTILE)
    changed = replace(review, pruned=(hostile,), unmeasured={HOSTILE: 1}, students=students)
    plain = replace(
        review,
        pruned=(replace(hostile, record=replace(hostile.record, outcome=Outcome(OutcomeKind.DOMINATED, "x"))),),
        unmeasured={"x": 1},
        students=dict.fromkeys(review.students, "x"),
    )
    pages = [Page(report_html(front(), trials_of(review), one)) for one in (changed, plain)]
    assert [tag for tag, _ in pages[0].tags] == [tag for tag, _ in pages[1].tags]
    assert HOSTILE in "".join(pages[0].text)


def test_what_cannot_be_told_is_said_in_words(review):
    nothing = replace(
        review,
        history=history_of((), reference=review.history.reference, objective=COSINE),
        positions=(),
        gaps=(),
        students={},
        pruned=(),
        fidelity=SobolIndices(dimensions=(), reason="Too few trials to tell."),
        latency=SobolIndices(dimensions=(), reason="The calibration is gone."),
    )
    text = search_section(nothing, lambda name: None)
    assert "No trial is complete yet." in text
    assert "No trial was pruned." in text
    assert "Too few trials to tell." in text
    assert "calibration is gone." in text
    drawings(text)
    empty = replace(nothing, records=(), rungs=())
    assert "No trial has begun yet." in search_section(empty, lambda name: None)


def test_a_share_that_could_be_anything_is_not_drawn(review):
    known = review.fidelity.dimensions[0]
    unclear = replace(known, low=0.05, high=0.9)
    texts = [
        search_section(replace(review, fidelity=SobolIndices(dimensions=(each,), explained=0.5)), lambda name: None)
        for each in (replace(known, low=known.total_effect, high=known.total_effect), unclear)
    ]
    assert "unclear: 5 to 90%" in texts[1]
    assert "unclear" not in texts[0]


def test_an_interrupted_search_says_so(review):
    records = (replace(review.records[0], state=TrialState.INTERRUPTED), *review.records[1:])
    assert "1 interrupted" in search_section(replace(review, records=records), lambda name: None)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (229.4, "3 min 49 s"), (7530.0, "2 h 05 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (45.3, 49.4), (0.0, 47.75), (1e-4, 3e-4), (0.0, 233.0)])
def test_ticks_are_round_within_and_neither_few_nor_many(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low <= tick <= high + 1e-9 for tick in found)
    steps = {round(b - a, 9) for a, b in itertools.pairwise(found)}
    assert len(steps) == 1


def test_the_terminal_says_the_same_in_a_few_lines(review):
    lines = search_lines(review).splitlines()
    assert lines[0].startswith("trials       ") and "complete" in lines[0]
    last = share_of_ideal(review.history, review.ideal)(review.history.steps[-1].hypervolume)
    assert f"{last:.2f}% after 100%" in lines[1]
    assert sum(line.startswith("rung ") for line in lines) == len(review.rungs)
    assert sum(line.startswith("wide gap ") for line in lines) == len(shown_gaps(review))
    assert "n_layers" in next(line for line in lines if line.startswith("latency "))
