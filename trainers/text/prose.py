# SPDX-License-Identifier: Apache-2.0
"""Extracts English sentences of prose from Python docstrings and topics.

A docstring mixes prose with doctests, tables, code, parameter signatures and reStructuredText, Markdown, Google and
NumPy markup. `sentences` walks over its lines, keeps the paragraphs (those of lists, fields and parameter
descriptions too), removes inline markup, splits at sentence ends and keeps what reads as an English sentence.
The rules prefer losing a sentence to keeping a line of code.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

# The commonest English function words: a sentence without a few of them is a list of names or another language.
_FUNCTION_WORDS = """
a about after all also an and any are as at be because been before being between both but by can cannot could do does
each either else every for from given had has have here how however i if in into is it its itself may might more most
must neither no non nor not of on once one only or other otherwise our out over own same set should since so some such
than that the their them then there these they this those through thus to too under unless until up upon used using via
was we were what when where whether which while who whose why will with within without would yet you your
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
MIN_FUNCTION_SHARE = 0.15  # of the words; ordinary English prose has about 0.4
MIN_PLAIN_SHARE = 0.75  # of the words, that are plain words and no identifiers or numbers
MIN_WORDS = 3

# Directives whose bodies are no prose; those of notes and warnings are.
_BLOCKS = """
autoclass autofunction automodule autosummary code code-block currentmodule csv-table deprecated doctest figure
graphviz highlight image index ipython list-table literalinclude math math-macro module mermaid parsed-literal plot
productionlist prompt rubric sourcecode table tab testcode testoutput toctree
"""
_BLOCK_DIRECTIVES = frozenset(_BLOCKS.split())
_DIRECTIVE = re.compile(r"\.\.\s+(?:([\w:-]+)::|_|\[|\||$)")
_MARKER = re.compile(  # what introduces prose on the same line: a bullet, a number, a field, "name (type):", "name:"
    r"(?:[-*+•]|\(?\d{1,2}[.)]|#+|:[^:`]{1,60}:(?!`)|[@\\]\w+|\*{0,2}[\w.]+\*{0,2}(?:\s\([^()]{1,80}\))?:)\s+(?=\S)"
)
_SIGNATURE = re.compile(r"[*\w.,`\[\]() ]+\s:(?:\s|$)|\w+\([^)]*\)\s*(?:->|:|=|$)|(?:def|class|import|from|return)\s")
_ROLE = re.compile(r":[\w:+-]+:`(?:[^`<]*<)?[!~]?([^`<>]+)>?`|``([^`]+)``|`{1,2}([^`<]+?)\s*(?:<[^>`]*>)?`{1,2}_{0,2}")
_LINK = re.compile(r"!?\[([^\]]+)\]\([^)]*\)|\[([^\]]+)\]\[[^\]]*\]")
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,2}|_{1,2})(?=[^\s*_])([^*\n]*?[^\s*_])\1(?![\w*])")
_SENTENCE_END = re.compile(r"(?<=[.!?])(?:(?<=[^.]\.)|(?<=[!?]))[\"')\]]{0,2}\s+(?=[\"'(\[]?[A-Z])")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|cf|vs|al|etc|resp|approx|Dr|Mr|Mrs|Prof|Fig|Eq|Sec|No|St)|\b[A-Z])\.$")
_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
_FORBIDDEN = re.compile(
    r"[`|{}<>\\=@#$^~_*]|::|->|://|\.\.\.\S|\s[-+/&]\s|\w\(\)|\[\d|\w\.\w{2,}\.|[^ -~]|%[sdr]|\s,|---"
)
_EDGES = "\"'()[].,;:!?"
_PUNCTUATION = str.maketrans(  # typographic quotes, dashes, ellipsis and space to ASCII
    {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2013: "-", 0x2014: " - ", 0x2026: "...", 0x00A0: " "}
)


def sentences(documentation: str) -> Iterator[str]:
    """The English sentences of a docstring or a plain-text topic, in order, each on one line."""
    for paragraph in _paragraphs(documentation.translate(_PUNCTUATION)):
        yield from _split(_without_markup(paragraph))


def is_sentence(text: str) -> bool:
    """Whether a line reads as one English sentence: capital, full stop, plain words, function words among them."""
    if text[-1:] not in ".!?" or text.endswith("..") or not (text[:1].isupper() or text[:1] in "\"'("):
        return False
    if _FORBIDDEN.search(text):
        return False
    words = [word.strip(_EDGES) for word in text.split()]
    n_words = len(words)
    if n_words < MIN_WORDS or sum(1 for word in words if _WORD.fullmatch(word)) < MIN_PLAIN_SHARE * n_words:
        return False
    n_function_words = sum(1 for word in words if word.lower() in FUNCTION_WORDS)
    return n_function_words >= max(MIN_FUNCTION_SHARE * n_words, 1)


def _paragraphs(documentation: str) -> Iterator[str]:
    """The paragraphs of prose: runs of lines of one indentation, or a marked item with its deeper continuation."""
    paragraph: list[str] = []
    indent, hanging = 0, False  # of the paragraph; whether its further lines may be indented more
    skipped_indent: int | None = None  # lines that are indented more than this are code
    in_doctest = in_fence = False
    for line in inspect.cleandoc(documentation).splitlines():
        text = line.strip()
        depth = len(line) - len(line.lstrip())
        if text.startswith(("```", "~~~")):
            in_fence = not in_fence
            text = ""
        elif in_fence:
            continue
        if text and skipped_indent is not None:
            if depth > skipped_indent:
                continue
            skipped_indent = None
        in_doctest = in_doctest and bool(text)
        if in_doctest:
            continue

        directive = _DIRECTIVE.match(text) if text.startswith("..") else None
        is_doctest = text.startswith(">>>")
        is_markup = bool(directive or is_doctest or _SIGNATURE.match(text) or not any(map(str.isalpha, text)))
        marker = None if is_markup else _MARKER.match(text)
        if paragraph and (is_markup or marker or depth < indent or (depth > indent and not hanging)):
            yield " ".join(paragraph)
            if paragraph[-1].endswith("::"):
                skipped_indent = indent
            paragraph = []
            if text and skipped_indent is not None and depth > skipped_indent:
                continue
        if is_markup:
            in_doctest = is_doctest
            if directive and (directive[1] is None or directive[1] in _BLOCK_DIRECTIVES):
                skipped_indent = depth
            continue
        if marker:
            text = text[marker.end() :]
        if not paragraph:
            indent, hanging = depth, marker is not None
        elif depth > indent:
            indent, hanging = depth, False
        paragraph.append(text)
    if paragraph:
        yield " ".join(paragraph)


def _without_markup(text: str) -> str:
    text = _ROLE.sub(_role_text, text) if "`" in text else text
    text = _LINK.sub(r"\1\2", text) if "[" in text else text
    text = _EMPHASIS.sub(r"\2", text) if "*" in text or "_" in text else text
    return " ".join(text.split())


def _role_text(match: re.Match[str]) -> str:
    """What a reader sees of inline markup: of `~package.module.name` the name."""
    shown = (match[1] or match[2] or match[3]).strip()
    return shown.rpartition(".")[2] if "`~" in match[0] else shown


def _split(text: str) -> Iterator[str]:
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if _ABBREVIATION.search(text, start, match.start()) is None:
            sentence = text[start : match.end()].rstrip()
            if is_sentence(sentence):
                yield sentence
            start = match.end()
    if is_sentence(text[start:]):
        yield text[start:]
