# SPDX-License-Identifier: Apache-2.0
"""Writes docs/metrics.md: every metric, parameter and tag in MLflow, from the lists that they are logged by.

python -m search.tracking.reference > docs/metrics.md
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any

from search.tracking.metrics import END, FIDELITY, RUNG, START, STUDENT, SUMMARY, UNTRAINED, Metric
from search.tracking.names import RunParam, Tag, TrialParam, VersionTag, fidelity_tag

_HEAD = """\
<!-- SPDX-License-Identifier: Apache-2.0; written by `python -m search.tracking.reference` -->
# What MLflow holds

One experiment and one registered model have the study's name. A trial is a run, a registered student a version of the
model with a logged model, and the run `front` summarises the study. Numbers without a unit have none.
"""
_METRICS: tuple[tuple[str, Sequence[Metric[Any]]], ...] = (
    ("A trial, when it begins", START),
    ("A trial, before training (step 0) and at every rung (the step is the training tokens seen)", UNTRAINED),
    ("A trial, at every rung", RUNG),
    ("A trial, when it ends", END),
    ("A registered student's logged model and its trial's run", STUDENT),
    ("The run `front`", SUMMARY),
)
_NAMES: tuple[tuple[str, type[StrEnum]], ...] = (
    ("Parameters", RunParam),
    ("Parameters", TrialParam),
    ("Tags", Tag),
    ("Tags", VersionTag),
)


def reference() -> str:
    """The text of docs/metrics.md."""
    parts = [_HEAD, "## Metrics"]
    for title, metrics in _METRICS:
        parts += [f"\n{title}:\n", "| metric | unit | meaning |", "|---|---|---|"]
        parts += [f"| `{metric.name}` | {metric.unit} | {metric.meaning} |" for metric in metrics]
    heading = ""
    for title, names in _NAMES:
        if title != heading:
            heading = title
            parts.append(f"\n## {title}")
        parts += [f"\n{inspect.getdoc(names)}\n", "| name | meaning |", "|---|---|"]
        parts += [f"| `{name}` | {meaning} |" for name, meaning in _meanings(names)]
        if names is VersionTag:
            parts += [f"| `{fidelity_tag(field)}` | {meaning} |" for field, meaning in FIDELITY]
    return "\n".join(parts) + "\n"


def _meanings(names: type[StrEnum]) -> Iterator[tuple[str, str]]:
    """(value, the string under it) of the members of an enumeration."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(names))).body
    assert isinstance(body, ast.ClassDef)
    for statement, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.Assign):
            (target,) = statement.targets
            assert isinstance(target, ast.Name)
            assert isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant), "a name has its string"
            yield names[target.id].value, " ".join(str(below.value.value).split())


if __name__ == "__main__":
    print(reference(), end="")
