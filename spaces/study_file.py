# SPDX-License-Identifier: Apache-2.0
"""Reads a study file as a whole: all problems are found before the first is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yaml.nodes import MappingNode, Node, ScalarNode

from spaces.domain import Value
from spaces.profile import LatencyProfile
from spaces.space import Space
from spaces.study_fields import FAILED, read_spec
from spaces.study_space import read_space
from spaces.study_spec import (
    CorpusSpec,
    GraduationSpec,
    SearchSpec,
    SourceKind,
    SourceSpec,
    StudySpec,
    TeacherSpec,
    resolve,
)
from spaces.study_yaml import Problems, StudyError, compose, describe_node, entries, items, nearest, scalar

_GRADUATION_END = "graduation must end"


def parse_study(text: str, *, origin: str = "study", folder: Path | None = None) -> StudySpec:
    """The study that a file's text describes.

    `origin` names the file in messages; `folder` is where its relative paths start (None: the current folder).
    Raises StudyError, a ValueError, with every problem of the text: its line, the rule, the value and the remedy.
    """
    root = compose(text, origin=origin)
    reader = _StudyReader(folder=Path.cwd() if folder is None else folder)
    study = reader.read(root)
    if reader.problems.found or study is None:
        raise StudyError(origin, reader.problems.found)
    return study


class _StudyReader:
    """The state of one reading: the problems, and the space that initial points are checked against."""

    def __init__(self, *, folder: Path) -> None:
        self.folder = folder
        self.problems = Problems()
        self.space: Space | None = None

    def read(self, root: MappingNode) -> StudySpec | None:
        ordered = MappingNode(root.tag, sorted(root.value, key=_space_first), root.start_mark, root.end_mark)
        study = read_spec(
            StudySpec,
            ordered,
            "the study",
            problems=self.problems,
            readers={
                "teachers": self.teachers,
                "corpus": self.corpus,
                "profile": lambda node, where: self.section(LatencyProfile, node, where),
                "search": lambda node, where: self.section(SearchSpec, node, where),
                "graduation": lambda node, where: self.section(GraduationSpec, node, where),
                "space": self.read_space,
                "initial_points": self.points,
            },
        )
        return study

    def section(self, cls: type, node: Node, where: str) -> Any:
        spec = read_spec(cls, node, where, problems=self.problems)
        return FAILED if spec is None else spec

    def read_space(self, node: Node, where: str) -> Any:
        self.space = read_space(node, where, problems=self.problems)
        return FAILED if self.space is None else self.space

    def teachers(self, node: Node, where: str) -> Any:
        return self.sources(TeacherSpec, node, where)

    def corpus(self, node: Node, where: str) -> Any:
        readers = {"sources": lambda inner, place: self.sources(SourceSpec, inner, place)}
        spec = read_spec(CorpusSpec, node, where, problems=self.problems, readers=readers)
        return FAILED if spec is None else spec

    def sources(self, cls: type[TeacherSpec] | type[SourceSpec], node: Node, where: str) -> Any:
        """Teachers or texts: a list whose items are a source or a mapping with the key source."""
        nodes = items(node, where, self.problems)
        if nodes is None:
            return FAILED
        specs: list[Any] = []
        for index, item in enumerate(nodes):
            place = f"{where}[{index}]"
            if isinstance(item, ScalarNode):
                key = ScalarNode(item.tag, "source", item.start_mark, item.end_mark)
                item = MappingNode("", [(key, item)], item.start_mark, item.end_mark)
            spec = read_spec(cls, item, place, problems=self.problems, readers={"source": self.source})
            if spec is None:
                specs.append(FAILED)
                continue
            if any(earlier is not FAILED and earlier == spec for earlier in specs):
                self.problems.add(
                    item, f"{where} must be distinct", value=f"{spec.source!r} twice", remedy="remove one"
                )
            self.local(spec, item, place)
            specs.append(spec)
        return FAILED if FAILED in specs else tuple(specs)

    def source(self, node: Node, where: str) -> Any:
        """A source as text, a relative local path resolved against the study file's folder."""
        value = scalar(node) if isinstance(node, ScalarNode) else None
        if not isinstance(value, str):
            self.problems.add(node, f"{where} must be text", value=describe_node(node), remedy="write one source")
            return FAILED
        is_local = value and ":" not in value.partition("/")[0] and value != SourceKind.INSTALLED_DOCS
        return resolve(value, self.folder) if is_local else value

    def local(self, spec: TeacherSpec | SourceSpec, node: Node, where: str) -> None:
        """Notes a problem when a local folder or file is not there."""
        path = Path(spec.reference)
        if spec.kind is SourceKind.FOLDER and not path.is_dir():
            what = "a file" if path.exists() else "nothing there"
            remedy = "give an existing folder, package:NAME or hub:ORGANISATION/NAME"
            self.problems.add(node, f"{where}: a teacher's folder must exist", value=f"{what} at {path}", remedy=remedy)
        elif spec.kind is SourceKind.FILE and not path.is_file():
            what = "a folder" if path.exists() else "nothing there"
            remedy = "give an existing file, hub:NAME or installed-docs"
            self.problems.add(node, f"{where}: a text file must exist", value=f"{what} at {path}", remedy=remedy)
        elif spec.kind is SourceKind.FILE and path.stat().st_size == 0:
            remedy = "give a file with sentences"
            self.problems.add(
                node, f"{where}: a text file must not be empty", value=f"0 bytes at {path}", remedy=remedy
            )

    def points(self, node: Node, where: str) -> Any:
        nodes = items(node, where, self.problems)
        if nodes is None:
            return FAILED
        points: list[Any] = []
        for index, item in enumerate(nodes):
            points.append(self.point(item, f"{where}[{index}]"))
        return FAILED if FAILED in points else tuple(points)

    def point(self, node: Node, where: str) -> Any:
        found = entries(node, where, self.problems)
        if found is None:
            return FAILED
        point: dict[str, Value] = {}
        for name, (_, value_node) in found.items():
            if not isinstance(value_node, ScalarNode):
                self.problems.add(
                    value_node, f"{where}.{name} must be one value", value=describe_node(value_node), remedy="write one"
                )
                return FAILED
            point[name] = scalar(value_node)
        if self.space is None:
            return FAILED
        breaches = self.space.breaches(point)
        for name, rule in breaches:
            unknown = name not in self.space.domains and name not in self.space.fixed
            remedy = nearest(name, self.space.domains) if unknown else "change or remove it"
            self.problems.add(found[name][0], f"{where}: {name} {rule}", value=point[name], remedy=remedy)
        return FAILED if breaches else point


def _space_first(pair: tuple[Node, Node]) -> bool:
    return getattr(pair[0], "value", None) != "space"
