# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.draw_front import front_svg
from search.console.front_table import print_front
from search.records.front import Front, MeasuredStudent
from search.records.front_table import front_columns, front_markdown
from search.records.objective import COSINE
from search.records.trial import TrialPoint
from search.report.front_chart import CHART_CSS, NARROW, front_chart
from search.report.page import report_html
from search.report.svg import CHARACTER_PX
from spaces.profile import LatencyProfile
from spaces.student import Dense, EncoderSpec, Projection, StaticSpec, StudentSpec, Switch
from trainers.measure.fidelity import Fidelity

HOSTILE = "<script>alert('\"&</script><img src=x onerror=alert(1)>{{data}}"
SVG = "{http://www.w3.org/2000/svg}"


def spec_of(n_layers: int, *, switch: bool = False) -> StudentSpec:
    if n_layers == 0:
        return StudentSpec(vocabulary_size=50, output_dim=6, static=StaticSpec())
    encoder = EncoderSpec(
        n_layers=n_layers,
        width=8,
        n_heads=2,
        head_width=4,
        feed_forward=Switch(n_experts=2, units=8) if switch else Dense(units=12),
        max_tokens=10,
        projection=Projection.LINEAR,
    )
    return StudentSpec(vocabulary_size=50, output_dim=6, encoder=encoder)


def entry(name: str, n_layers: int, latency_ms: float, cosine: float, *, switch: bool = False) -> MeasuredStudent:
    fidelity = Fidelity(
        cosine=cosine,
        cosine_p5=cosine - 0.1,
        cosine_centred=cosine - 0.05,
        spearman=cosine,
        overlap_at_1=0.5,
        overlap_at_10=0.6,
        constant_baseline=0.292,
    )
    return MeasuredStudent.measured(
        name,
        spec_of(n_layers, switch=switch),
        latency_ms=latency_ms,
        latency_interval_ms=(latency_ms * 0.9, latency_ms * 1.2),
        teacher_latency_ms=8.0,
        fidelity=fidelity,
    )


def trial(name: str, state: str, latency_ms: float | None, cosine: float | None) -> TrialPoint:
    return TrialPoint(
        name=name, student="2 x 8", state=state, outcome="", latency_ms=latency_ms, fidelity=cosine, n_tokens=1000
    )


def front(name: str = "trial-0001", *, study: str = "quickstart") -> Front:
    document = Front.of(
        study,
        teacher="the teacher",
        profile=LatencyProfile(),
        objective=COSINE,
        references=(entry("teacher", 4, 8.0, 1.0), entry("static-table", 0, 0.05, 0.88)),
        students=(
            entry(name, 0, 0.04, 0.89),
            entry("trial-0002", 2, 3.0, 0.95, switch=True),
            entry("trial-0003", 3, 6.0, 0.98),
            entry("trial-0004", 4, 8.1, 0.99),
        ),
    )
    numbered = [student.changed(version=str(i + 1)) for i, student in enumerate(document.students)]
    aliases = [("fastest",), ("balanced",), ("most-faithful",)]
    students = tuple(one.changed(aliases=alias) for one, alias in zip(numbered, aliases, strict=True))
    return Front(
        study=study,
        teacher=document.teacher,
        profile=document.profile,
        objective=document.objective,
        references=document.references,
        students=students,
        dominated=document.dominated,
    )


TRIALS = (
    trial("trial-0001", "complete", 0.04, 0.88),
    trial("trial-0005", "pruned", 4.0, 0.91),
    trial("trial-0006", "failed", 4.0, math.nan),
    trial("trial-0007", "refused", None, None),
)


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and the text of scripts apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        (self.scripts if self._in_script else self.text).append(data)

    def keys(self, tag: str) -> list[str]:
        return [
            str(attributes["data-key"]) for name, attributes in self.tags if name == tag and "data-key" in attributes
        ]


def test_the_page_loads_nothing_but_itself() -> None:
    text = report_html(front(), TRIALS)
    page = Page(text)
    addresses = {
        value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href", "action")
    }
    assert addresses == {"data:,"}
    assert "@import" not in text
    assert re.findall(r"url\(", text) == []
    assert set(re.findall(r"https?://[^\s\"'<]*", text)) <= {"http://www.w3.org/2000/svg"}
    policies = [attributes.get("content") for name, attributes in page.tags if name == "meta"]
    assert any(policy and "default-src 'none'" in policy for policy in policies)


def test_every_entry_has_a_mark_a_row_and_its_numbers() -> None:
    page = Page(report_html(front(), TRIALS))
    keys = ["s0", "s1", "s2", "d0", "r0", "r1"]
    assert page.keys("tr") == keys
    assert sorted(page.keys("g")) == sorted(keys * 2)  # in the chart for wide screens, and in that for narrow ones
    data = json.loads(page.scripts[0])
    assert {key: data[key]["name"] for key in keys} == {
        "s0": "trial-0001",
        "s1": "trial-0002",
        "s2": "trial-0003",
        "d0": "trial-0004",
        "r0": "teacher",
        "r1": "static-table",
    }
    assert data["s1"]["fidelity"]["cosine"] == 0.95
    assert data["d0"]["notes"] == "dominated by teacher"


def test_trials_that_were_measured_are_dots_and_others_are_not() -> None:
    page = Page(report_html(front(), TRIALS))
    assert page.keys("circle") == ["t0", "t1"] * 2
    data = json.loads(page.scripts[0])
    assert {key for key in data if key.startswith("t")} == {"t0", "t1"}  # NaN is no JSON


def test_commands_name_the_version_and_a_format_that_can_hold_it() -> None:
    data = json.loads(Page(report_html(front())).scripts[0])
    commands = {key: " ".join(line for _, line in data[key]["commands"]) for key in ("s0", "s1")}
    assert "understudy select quickstart --max-latency-ms 0.04 " in commands["s0"]
    assert "understudy export quickstart/1 OUT --format sentence-transformers" in commands["s0"]
    assert "understudy export quickstart/2 OUT --format onnx" in commands["s1"]
    assert data["r0"]["commands"] == []


@pytest.mark.parametrize("where", ["student", "study", "trial"])
def test_no_name_becomes_markup(where: str) -> None:
    document = front(HOSTILE if where == "student" else "trial-0001", study=HOSTILE if where == "study" else "study")
    trials = (trial(HOSTILE, "complete", 1.0, 0.9),) if where == "trial" else TRIALS
    plain = Page(report_html(front(study="study"), trials if where == "trial" else TRIALS))
    page = Page(report_html(document, trials))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert len(page.scripts) == 2
    assert HOSTILE in "".join(page.text) + page.scripts[0].encode().decode("unicode_escape")
    ElementTree.fromstring(front_svg(document, trials))


@pytest.mark.parametrize(
    "document",
    [
        Front(study="s", teacher="t", profile=LatencyProfile(), objective=COSINE, references=(), students=()),
        Front(
            study="s",
            teacher="t",
            profile=LatencyProfile(),
            objective=COSINE,
            references=(entry("t", 2, 8.0, 1.0),),
            students=(),
        ),
        Front(
            study="s",
            teacher="t",
            profile=LatencyProfile(),
            objective=COSINE,
            references=(),
            students=(entry("x", 2, 8.0, -0.2),),
        ),
    ],
    ids=["nothing", "the teacher alone", "one student"],
)
def test_a_front_of_little_is_a_page_too(document: Front, capsys: pytest.CaptureFixture[str]) -> None:
    assert Page(report_html(document, TRIALS)).keys("tr") == ["s0"] * len(document.students) + ["r0"] * len(
        document.references
    )
    ElementTree.fromstring(front_svg(document, TRIALS))
    print_front(document)
    assert "s: students of t" in capsys.readouterr().out


cosines = st.floats(min_value=-0.5, max_value=1.0)
latencies = st.floats(min_value=1e-3, max_value=1e4)


@given(st.lists(st.tuples(latencies, cosines), min_size=1, max_size=6))
def test_the_picture_orders_marks_as_their_numbers(points: list[tuple[float, float]]) -> None:
    students = tuple(entry(f"s{i}", 1, *point) for i, point in enumerate(points))
    document = Front(
        study="s", teacher="t", profile=LatencyProfile(), objective=COSINE, references=(), students=students
    )
    root = ElementTree.fromstring(front_svg(document))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    positions = {}
    for mark in root.iter(f"{SVG}g"):
        if "data-key" in mark.attrib:
            x, y = map(float, mark.attrib["transform"].removeprefix("translate(").removesuffix(")").split())
            assert 0 <= x <= width
            assert 0 <= y <= height
            positions[document.students[int(mark.attrib["data-key"][1:])].name] = (x, y)
    for one in students:
        for other in students:
            if one.latency_ms <= other.latency_ms:
                assert positions[one.name][0] <= positions[other.name][0] + 0.1
            if one.fidelity.cosine <= other.fidelity.cosine:
                assert positions[one.name][1] >= positions[other.name][1] - 0.1


def beside_references(students: tuple[MeasuredStudent, ...]) -> Front:
    """A front of these students and the usual references."""
    references = front().references
    return Front(
        study="s", teacher="t", profile=LatencyProfile(), objective=COSINE, references=references, students=students
    )


@given(st.lists(st.tuples(latencies, cosines), min_size=1, max_size=6))
def test_the_chart_for_a_phone_fits_its_screen(points: list[tuple[float, float]]) -> None:
    students = tuple(entry(f"s{i}", 1, *point) for i, point in enumerate(points))
    document = beside_references(students)
    root = ElementTree.fromstring(front_chart(document, TRIALS, frame=NARROW))
    _, top, width, height = map(float, root.attrib["viewBox"].split())
    assert width == 360.0  # so that letters have their size on a phone
    for element in root.iter(f"{SVG}text"):
        x, length = float(element.attrib.get("x", 180)), CHARACTER_PX * len(element.text or "")
        share = {"end": 1.0, "middle": 0.5}.get(element.attrib.get("text-anchor", ""), 0.0)
        if "transform" not in element.attrib:
            assert x - share * length >= -2.0 and x + (1.0 - share) * length <= width + 12.0
            assert top <= float(element.attrib["y"]) <= top + height
    wide = Page(front_chart(document, TRIALS))
    narrow = Page(front_chart(document, TRIALS, frame=NARROW))
    assert wide.keys("g") == narrow.keys("g") and wide.keys("circle") == narrow.keys("circle")


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_contrast_in_light_and_dark() -> None:
    themes = re.findall(r"\{\s*(--paper.*?)\}", CHART_CSS.read_text("utf-8"), re.DOTALL)
    assert len(themes) == 3  # light, dark by the system, dark by the button
    for theme in themes:
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})\b", theme))
        for ground in ("paper", "card"):
            assert all(
                contrast(colours[name], colours[ground]) >= 4.5 for name in ("ink", "soft", "front", "reference")
            )
            assert all(contrast(colours[name], colours[ground]) >= 3.0 for name in ("trial", "budget", "failed"))


def test_no_number_of_the_page_has_an_exponent() -> None:
    fast = entry("fast", 0, 0.0000024, 0.9)
    document = beside_references((fast,))
    text = report_html(document, TRIALS) + front_markdown(document)
    assert "3,330,000x" in text
    assert re.findall(r"\d(?:\.\d+)?e[+-]\d+(?: ?x|\N{MULTIPLICATION SIGN}| ms|</)", text) == []


def test_the_picture_stands_alone() -> None:
    text = front_svg(front(), TRIALS)
    assert "<style>" in text
    assert "quickstart: students of the teacher" in text
    assert set(re.findall(r"https?://[^\s\"'<]*", text)) == {"http://www.w3.org/2000/svg"}


def test_the_table_shows_references_beside_and_marks_the_dominated(capsys: pytest.CaptureFixture[str]) -> None:
    print_front(front())
    printed = capsys.readouterr().out
    for words in ("trial-0001", "static-table", "dominated by teacher", "balanced", "0.292", "200x"):
        assert words in printed
    assert front_markdown(front()).count("\n| ") == 7  # a heading, three students, one dominated, two references
    columns = front_columns(front())
    assert {len(values) for values in columns.values()} == {6}
    assert columns["dominated_by"][3] == "teacher"
