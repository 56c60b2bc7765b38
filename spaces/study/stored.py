# SPDX-License-Identifier: Apache-2.0
"""Reads studies that a search of an older or newer version saved: like study files, but unknown keys are ignored.

A study file with an unknown key is refused, for it may be misspelt. In the output of `StudySpec.to_json` such a key
is another version's and is ignored; a missing one has its default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from spaces.profile import LatencyProfile
from spaces.space import Space
from spaces.study.fields import read_spec
from spaces.study.file import parse_study
from spaces.study.space import read_space
from spaces.study.spec import (
    CorpusSpec,
    GraduationSpec,
    SearchSpec,
    SourceSpec,
    StudySpec,
    TeacherSpec,
    file_key,
)
from spaces.study.yaml import Problems, StudyError, compose

Section = TypeVar("Section", SearchSpec, GraduationSpec, LatencyProfile)


def stored_study(document: Mapping[str, Any]) -> StudySpec:
    """The study that `StudySpec.to_json` wrote. Raises StudyError, a ValueError, if it cannot be read any more."""
    known = _known(StudySpec, document)
    for key, cls in (("profile", LatencyProfile), ("search", SearchSpec), ("graduation", GraduationSpec)):
        if key in known:
            known[key] = _known(cls, known[key])
    known["teachers"] = [_known(TeacherSpec, teacher) for teacher in document["teachers"]]
    corpus = document["corpus"]
    sources = [_known(SourceSpec, source) for source in corpus["sources"]]
    known["corpus"] = _known(CorpusSpec, corpus) | {"sources": sources}
    return parse_study(json.dumps(known), origin="a stored study")


def stored_section(cls: type[Section], document: Mapping[str, Any]) -> Section:
    """A section of such a study: its search, its graduation or its latency profile. Raises StudyError, too."""
    problems = Problems()
    node = compose(json.dumps(_known(cls, document)), origin=cls.__name__)
    spec = read_spec(cls, node, cls.__name__, problems=problems)
    if spec is None:
        raise StudyError(cls.__name__, problems.found)
    return spec


def stored_space(document: Mapping[str, Any]) -> Space:
    """The space that `space_to_json` wrote. Raises StudyError, too."""
    problems = Problems()
    space = read_space(compose(json.dumps(document), origin="space"), "space", problems=problems)
    if space is None:
        raise StudyError("space", problems.found)
    return space


def _known(cls: type, document: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a document that this version knows, under the current names of keys."""
    names = {file_key(part.name) for part in fields(cls)}
    renamed: Mapping[str, str] = getattr(cls, "renamed", {})
    now = {renamed.get(key, key): value for key, value in document.items()}
    return {key: value for key, value in now.items() if key in names}
