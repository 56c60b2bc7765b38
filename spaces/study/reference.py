# SPDX-License-Identifier: Apache-2.0
"""Writes docs/study-file.md: every key of a study file, from the annotations and docstrings that it is read by.

    python -m spaces.study.reference > docs/study-file.md
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from spaces.dimensions import DIMENSIONS, Dimension
from spaces.objective import ObjectiveSpec
from spaces.profile import LatencyProfile
from spaces.study.fields import wanted
from spaces.study.spec import (
    CorpusSpec,
    GraduationSpec,
    SearchSpec,
    SourceSpec,
    StudySpec,
    TeacherSpec,
    file_key,
)

_HEAD = """\
<!-- SPDX-License-Identifier: Apache-2.0; written by `python -m spaces.study.reference` -->
# The study file

A study is one YAML file. `understudy validate FILE` checks it and names every mistake with its line, the rule and the
remedy; nothing is run. Paths are relative to the file's folder. Durations are written as 90s, 10m, 2h or 1d.
"""
_SPACE = """\
Each key is a dimension, and its value one of

- one value, which every student has: `width: 384`
- a list of options: `width: [192, 288, 384]`
- a range: `{low: 0, high: 6}`, with `log: true` if ratios matter more than differences, and `step: 2` for integers
- any of these with a condition: `{options: [2, 4, 8], when: {feed_forward: switch}}`; a condition is a value, a list
  or a range, `{low: 0.1}`, of other dimensions

What a space does not name is as in the teacher, or as recipes have it. A dimension that cannot matter at a point (the
experts of a dense student) is not asked for there, conditions or not."""
_SECTIONS: dict[str, dict[type, str]] = {
    "teachers": {TeacherSpec: "A list; an item is a source alone or has these keys."},
    "corpus": {
        CorpusSpec: "The text on which students imitate their teacher, and how it becomes sentences.",
        SourceSpec: "An item of `sources` is a source alone or has these keys.",
    },
    "profile": {LatencyProfile: "The conditions of a latency: the latency budget is one under these alone."},
    "objective": {
        ObjectiveSpec: "All measurements are taken and shown; this one decides. It belongs to the study: another one "
        "is another study."
    },
    "search": {SearchSpec: "How many trials, how long, and when weak ones are stopped."},
    "graduation": {GraduationSpec: "The longer distillation of the best."},
}


def reference() -> str:
    """The page."""
    parts = [_HEAD, "| key | |\n|---|---|"]
    meanings = _meanings(StudySpec)
    parts += [f"| `{part.name}` | {meanings[part.name]} |" for part in fields(StudySpec)]
    for name, specs in _SECTIONS.items():
        parts.append(f"\n## {name}")
        for spec, title in specs.items():
            parts += [f"\n{title}\n", *_table(spec)]
    parts += ["\n## space", "", _SPACE]
    for title, structural in (("The student:", True), ("The recipe of its distillation:", False)):
        parts += ["", title, "", "| dimension | values | meaning |", "|---|---|---|"]
        parts += [
            f"| `{name}` | {dimension.wanted} | {_meaning(dimension)} |"
            for name, dimension in DIMENSIONS.items()
            if dimension.structural is structural
        ]
    return "\n".join(parts) + "\n"


def _table(spec: type) -> Iterator[str]:
    yield from ("| key | values | default | meaning |", "|---|---|---|---|")
    hints, meanings = get_type_hints(spec, include_extras=True), _meanings(spec)
    for part in fields(spec):
        required = part.default is MISSING and part.default_factory is MISSING
        default = "" if required else f"`{_yaml(part.default)}`"
        yield f"| `{file_key(part.name)}` | {wanted(hints[part.name])} | {default} | {meanings[part.name]} |"


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _meaning(dimension: Dimension) -> str:
    parents = f"; depends on {', '.join(f'`{name}`' for name in dimension.parents)}" if dimension.parents else ""
    return f"{dimension.meaning}{parents}"


def _meanings(spec: type) -> dict[str, str]:
    """The string under each field of a spec, on one line, in the words of the file."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(spec))).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assert isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant), "a field has its string"
            text = " ".join(str(below.value.value).split())
            found[statement.target.id] = text.replace("None:", "null:")
    return found


if __name__ == "__main__":
    print(reference(), end="")
