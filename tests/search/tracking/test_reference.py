# SPDX-License-Identifier: Apache-2.0
"""Claims about the page that lists what MLflow holds, and about the lists that it is written from."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

from search.tracking.metrics import END, FIDELITY, RUNG, START, STUDENT, SUMMARY
from search.tracking.names import RunParam, Tag
from search.tracking.reference import reference
from trainers.measure.fidelity import Fidelity

ROOT = Path(__file__).resolve().parents[3]
METRICS = (*START, *RUNG, *END, *STUDENT, *SUMMARY)


def test_the_page_is_what_is_logged() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    assert page == reference(), "python -m search.tracking.reference > docs/metrics.md"


def test_every_metric_has_a_name_of_its_own_and_a_meaning() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(metric.meaning for metric in METRICS)


def test_every_measurement_of_a_fidelity_is_a_metric() -> None:
    assert [field for field, _ in FIDELITY] == [part.name for part in fields(Fidelity)]


def test_names_are_written_in_the_lists_alone() -> None:
    names = {str(name) for name in Tag} | {metric.name for metric in METRICS if "/" in metric.name}
    lists = {"names.py", "metrics.py"}
    found = [
        f"{path.relative_to(ROOT)}: {node.value!r}"
        for path in (ROOT / "search").rglob("*.py")
        if path.name not in lists or path.parent.name != "tracking"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert found == []


def test_parameters_do_not_take_the_names_of_tags() -> None:
    """A run's parameters become the summary run's tags, `understudy.NAME`."""
    assert {f"understudy.{name}" for name in RunParam} & set(Tag) == set()
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in RunParam)
