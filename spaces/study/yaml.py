# SPDX-License-Identifier: Apache-2.0
"""From the text of a study file to YAML nodes and typed values; every mistake becomes a Problem with its line.

Nothing is constructed by YAML itself: scalars are read by the rules below (those of YAML 1.2, so 1e-3 is a
number and `no` is a word), and anchors, aliases, tags and deep nesting are refused before a tree is built.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from spaces.domain import Value
from spaces.errors import UserError

MAX_CHARACTERS = 60_000  # a study is a page; this bounds the time that a hostile file can cost
MAX_DEPTH = 12
MOST_SHOWN = 100  # problems that a message lists

_INTEGER = re.compile(r"[-+]?\d[\d_]{0,30}")
_FLOAT = re.compile(r"[-+]?(\d[\d_]{0,30}\.?\d{0,30}|\.\d{1,30})([eE][-+]?\d{1,5})?")
_SPECIAL = {"": None, "~": None, "null": None, "true": True, "false": False}
_GOT = re.compile(r"(?P<rule>.*?)[,:]? got (?P<value>.*?)(?:; (?P<remedy>.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake of a study file."""

    line: int | None
    """Line of the file, from 1; None when the mistake has no place."""
    rule: str
    """What must hold."""
    value: str
    """What the file says instead."""
    remedy: str
    """What to do about it."""

    def __str__(self) -> str:
        place = "" if self.line is None else f"line {self.line}: "
        value = f", got {self.value}" if self.value else ""
        return f"{place}{self.rule}{value}{f'; {self.remedy}' if self.remedy else ''}"


class StudyError(UserError):
    """A study file that cannot be used, with all its problems in the order of the file."""

    def __init__(self, origin: str, problems: Iterable[Problem]) -> None:
        self.origin = origin
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        lines = [str(problem) for problem in self.problems[:MOST_SHOWN]]
        if len(self.problems) > len(lines):
            lines.append(f"and {len(self.problems) - len(lines)} more")
        if len(lines) == 1:
            super().__init__(f"{origin}: {lines[0]}")
        else:
            shown = "\n".join(f"  {line}" for line in lines)
            super().__init__(f"{origin}: {len(self.problems)} problems\n{shown}")


class Problems:
    """Collects the problems of one file."""

    def __init__(self) -> None:
        self._found: dict[Problem, None] = {}

    @property
    def found(self) -> tuple[Problem, ...]:
        """The problems so far, each once."""
        return tuple(self._found)

    def add(self, place: Node | int | None, rule: str, *, value: Any = "", remedy: str = "") -> None:
        """Notes a problem at a node or line; a value that is not text is shown as Python writes it."""
        line = place.start_mark.line + 1 if isinstance(place, Node) else place
        shown = value if isinstance(value, str) else repr(value)
        shown = shown if len(shown) <= 120 else shown[:117] + "..."
        self._found[Problem(line=line, rule=rule, value=shown, remedy=remedy)] = None

    def add_message(self, place: Node | int | None, message: str) -> None:
        """Notes a message of the form "rule, got value; remedy"."""
        match = _GOT.fullmatch(message)
        if match is None:
            rule, _, remedy = message.partition("; ")
            self.add(place, rule, remedy=remedy)
        else:
            self.add(place, match["rule"], value=match["value"], remedy=match["remedy"] or "")


def compose(text: str, *, origin: str) -> MappingNode:
    """The root mapping of a study file; StudyError when the text is not one plain YAML mapping."""
    problems = Problems()

    def stop(place: Node | int | None, rule: str, value: str, remedy: str) -> StudyError:
        problems.add(place, rule, value=value, remedy=remedy)
        return StudyError(origin, problems.found)

    if not text.strip():
        raise stop(
            None, "a study file must not be empty", "nothing", "start from a preset, for example quickstart.yaml"
        )
    if len(text) > MAX_CHARACTERS:
        rule = f"a study file holds at most {MAX_CHARACTERS} characters"
        raise stop(None, rule, str(len(text)), "name corpora by their path")
    try:
        _refuse_features(text, stop)
        documents = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        rule, remedy = (
            f"the file must be valid YAML ({error.problem or error.context})",
            "correct the line, or the one above",
        )
        if "'\\t'" in str(error.problem):
            rule, remedy = "YAML is indented with spaces, never with tabs", "replace the tab by spaces"
        lines = text.splitlines()
        raise stop(line, rule, repr(lines[line - 1][:80]) if line and line <= len(lines) else "", remedy) from None
    except yaml.YAMLError as error:
        character = getattr(error, "character", None)
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        value = "" if character is None else f"the character U+{character:04X}"
        raise stop(line, "the file must be valid YAML text", value, "remove control characters") from None
    if not documents:
        raise stop(
            None, "a study file must not be empty", "only comments", "start from a preset, for example quickstart.yaml"
        )
    if len(documents) > 1:
        raise stop(documents[1], "a study file holds one document", f"{len(documents)}", "remove the lines `---`")
    root = documents[0]
    if not isinstance(root, MappingNode):
        raise stop(root, "a study file is a mapping of keys to values", describe_node(root), "begin with `name:`")
    return root


def _refuse_features(text: str, stop: Any) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = None if event.start_mark is None else event.start_mark.line + 1
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            raise stop(line, "anchors and aliases are not allowed", repr(event.anchor), "write the value out")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            raise stop(line, "tags are not allowed", repr(event.tag), "remove the tag")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise stop(line, f"values nest at most {MAX_DEPTH} deep", "more", "remove brackets")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def scalar(node: ScalarNode) -> Value:
    """The value of a scalar; quoted text stays text."""
    text: str = node.value
    if node.style is not None:
        return text
    if text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text


def describe_node(node: Node) -> str:
    """Description of a node for a message."""
    match node:
        case ScalarNode():
            value = scalar(node)
            return "nothing" if value is None else repr(value)
        case SequenceNode():
            return f"a list of {len(node.value)}"
        case _:
            return "a mapping"


def close_matches(word: str, words: Iterable[str]) -> list[str]:
    """The known word that is nearest to a misspelt one, or nothing."""
    return difflib.get_close_matches(word[:100].lower().replace("-", "_"), list(words), n=1)


def nearest(word: str, words: Iterable[str]) -> str:
    """A remedy for an unknown word: the nearest known one, or all of them."""
    known = list(words)
    close = close_matches(word, known)
    return f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"


def entries(node: Node, where: str, problems: Problems) -> dict[str, tuple[Node, Node]] | None:
    """(key node, value node) by key; None, with a problem noted, when the node is not a mapping."""
    if not isinstance(node, MappingNode):
        problems.add(
            node,
            f"{where} must be a mapping of keys to values",
            value=describe_node(node),
            remedy="indent `key: value` lines below it",
        )
        return None
    found: dict[str, tuple[Node, Node]] = {}
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            problems.add(key, f"a key of {where} must be a word", value=describe_node(key), remedy="write `key: value`")
        elif key.value in found:
            first = found[key.value][0].start_mark.line + 1
            problems.add(
                key,
                f"a key stands once in {where}",
                value=f"{key.value!r} again (first on line {first})",
                remedy="remove one",
            )
        else:
            found[key.value] = (key, value)
    return found


def items(node: Node, where: str, problems: Problems) -> list[Node] | None:
    """The nodes of a list; None, with a problem noted, when the node is not a list."""
    if not isinstance(node, SequenceNode):
        problems.add(
            node,
            f"{where} must be a list",
            value=describe_node(node),
            remedy="write [first, second], or one item a line after `- `",
        )
        return None
    return list(node.value)
