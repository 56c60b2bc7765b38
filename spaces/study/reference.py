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

Dimensions that a space does not name take the teacher's value, or the default of the recipe (`RecipeSpec`). A
dimension without effect at a point (the experts of a dense student) is inactive there and not sampled, with or
without a condition."""
_SECTIONS: dict[str, dict[type, str]] = {
    "teachers": {TeacherSpec: "A list; an item is a source alone or has these keys."},
    "corpus": {
        CorpusSpec: "The text for distillation and evaluation, and how it is filtered and tokenised.",
        SourceSpec: "An item of `sources` is a source alone or has these keys.",
    },
    "profile": {LatencyProfile: "The conditions under which latency is measured."},
    "objective": {
        ObjectiveSpec: "All measurements are computed and shown; this one is maximised. It is part of the study's "
        "identity: a search with another one needs another name."
    },
    "search": {SearchSpec: "Number of trials, time budget, rungs, sampler and pruner."},
    "graduation": {GraduationSpec: "The longer distillation of the best students."},
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
