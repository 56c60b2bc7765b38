# SPDX-License-Identifier: Apache-2.0
"""Parses a study file and collects all problems before it reports them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yaml.nodes import MappingNode, Node, ScalarNode

from spaces.domain import Value
from spaces.fields import require_name
from spaces.objective import ObjectiveSpec
from spaces.profile import LatencyProfile
from spaces.space import Space, typed
from spaces.study.fields import FAILED, read_spec, read_value
from spaces.study.space import read_space
from spaces.study.spec import (
    INSTALLED_DOCS,
    CorpusSpec,
    Device,
    GraduationSpec,
    SearchSpec,
    SourceSpec,
    StudySpec,
    TeacherSpec,
    resolve,
)
from spaces.study.yaml import Problems, StudyError, compose, describe_node, entries, items, nearest, scalar

_STAND_INS: dict[str, Any] = {
    "name": "study",
    "teachers": (TeacherSpec(source="hub:organisation/name"),),
    "corpus": CorpusSpec(sources=(SourceSpec(source=INSTALLED_DOCS),)),
    "space": Space(domains={}),
}


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
        return read_spec(
            StudySpec,
            root,
            "the study",
            problems=self.problems,
            readers={
                "name": self.name,
                "teachers": self.teachers,
                "corpus": self.corpus,
                "profile": lambda node, where: self.section(LatencyProfile, node, where),
                "objective": lambda node, where: self.section(ObjectiveSpec, node, where),
                "search": self.search,
                "graduation": lambda node, where: self.section(GraduationSpec, node, where),
                "space": self.read_space,
                "initial_points": self.points,
            },
            stand_ins=_STAND_INS,
        )

    def name(self, node: Node, where: str) -> Any:
        name = read_value(str, node, where, problems=self.problems)
        try:
            return name if name is FAILED else require_name("name of a study", name)
        except ValueError as error:
            self.problems.add_message(node, str(error))
            return FAILED

    def search(self, node: Node, where: str) -> Any:
        readers, stand_ins = {"device": self.device}, {"rungs": (1,)}
        spec = read_spec(SearchSpec, node, where, problems=self.problems, readers=readers, stand_ins=stand_ins)
        return FAILED if spec is None else spec

    def device(self, node: Node, where: str) -> Any:
        """The device of a search, or an unknown name, which `SearchSpec` refuses with a more specific message."""
        word = read_value(str, node, where, problems=self.problems)
        return Device(word) if word in tuple(Device) else word

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
        stand_ins = {"sources": _STAND_INS["corpus"].sources}
        spec = read_spec(CorpusSpec, node, where, problems=self.problems, readers=readers, stand_ins=stand_ins)
        return FAILED if spec is None else spec

    def sources(self, cls: type[TeacherSpec] | type[SourceSpec], node: Node, where: str) -> Any:
        """Teachers or texts: a list whose items are a source or a mapping with the key source."""
        nodes = items(node, where, self.problems)
        if nodes is None:
            return FAILED
        if not nodes:
            example = "hub:ORGANISATION/NAME" if cls is TeacherSpec else "installed-docs"
            self.problems.add(
                node, f"{where} must not be empty", value="an empty list", remedy=f"add for example {example}"
            )
            return FAILED
        read_source = self.teacher_source if cls is TeacherSpec else self.text_source
        specs: list[Any] = []
        for index, item in enumerate(nodes):
            if isinstance(item, ScalarNode):
                key = ScalarNode(item.tag, "source", item.start_mark, item.end_mark)
                item = MappingNode("", [(key, item)], item.start_mark, item.end_mark)
            readers = {"source": read_source}
            spec = read_spec(cls, item, f"{where}[{index}]", problems=self.problems, readers=readers)
            if spec is not None and any(_same_source(earlier, spec) for earlier in specs):
                self.problems.add(
                    item, f"{where} must be distinct", value=f"{spec.source!r} twice", remedy="remove one"
                )
            specs.append(FAILED if spec is None else spec)
        return FAILED if any(spec is FAILED for spec in specs) else tuple(specs)

    def teacher_source(self, node: Node, where: str) -> Any:
        """A teacher's source; a relative folder is resolved against the study file's folder and must exist."""
        source = read_value(str, node, where, problems=self.problems)
        if source is FAILED or source.startswith(("package:", "hub:")):
            return source
        path = self.path(source, node, where)
        if path is None:
            return FAILED
        if source and not path.is_dir():
            what = "a file" if path.exists() else "nothing"
            remedy = "give an existing folder, package:NAME or hub:ORGANISATION/NAME"
            self.problems.add(node, f"{where}: a teacher's folder must exist", value=f"{what} at {path}", remedy=remedy)
            return FAILED
        return str(path) if source else source

    def text_source(self, node: Node, where: str) -> Any:
        """A source of text; a relative file is resolved against the study file's folder and must not be empty."""
        source = read_value(str, node, where, problems=self.problems)
        if source is FAILED or source == INSTALLED_DOCS or source.startswith("hub:"):
            return source
        path = self.path(source, node, where)
        if path is None:
            return FAILED
        if source and not path.is_file():
            what = "a folder" if path.exists() else "nothing"
            remedy = "give an existing file, hub:NAME or installed-docs"
            self.problems.add(node, f"{where}: a text file must exist", value=f"{what} at {path}", remedy=remedy)
        elif source and path.stat().st_size == 0:
            remedy = "give a file with sentences"
            self.problems.add(
                node, f"{where}: a text file must not be empty", value=f"0 bytes at {path}", remedy=remedy
            )
        return str(path) if source else source

    def path(self, source: str, node: Node, where: str) -> Path | None:
        """The absolute path of a local source, or None after noting that it is none."""
        try:
            path = resolve(source, self.folder)
            path.exists()
        except (OSError, ValueError, RuntimeError) as error:  # too long, a null character, no such home
            self.problems.add(node, f"{where} must be a path that can be opened", value=str(error), remedy="change it")
            return None
        return path

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
        return FAILED if breaches else {name: typed(name, value) for name, value in point.items()}


def _same_source(left: Any, right: TeacherSpec | SourceSpec) -> bool:
    return left is not FAILED and (left.source == right.source if isinstance(left, TeacherSpec) else left == right)
