# SPDX-License-Identifier: Apache-2.0
"""The filters of a corpus: which texts are kept, and how many of each source every filter dropped.

A filter that drops much of a source is a mistake more often than a wish, so `warnings_of` says so: sentences of a
script that is short in characters, a table's column of titles, a limit in the wrong unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from spaces.study.spec import CorpusSpec, SourceSpec
from trainers.text.sources import is_unquoted_table, read_texts
from trainers.text.words import count_words

WARNED_SHARE = 0.1
"""A filter that drops more than this share of a source's texts is warned of."""


@dataclass(slots=True, kw_only=True)
class SourceCounts:
    """How many texts of one source were read, and how many each filter dropped."""

    source: str
    """The source as the study names it."""
    read: int = 0
    """Texts that were read, those that are dropped included; rows without text are none."""
    empty: int = 0
    """Texts of white space alone."""
    too_short: int = 0
    """Texts of fewer characters than `min_characters`."""
    too_long: int = 0
    """Texts of more characters than `max_characters`."""
    too_few_words: int = 0
    """Texts of fewer words than `min_words`."""
    malformed: int = 0
    """Rows of more cells than the table has columns, which are not read."""
    first_malformed: int | None = None
    """The line of the first such row."""

    def to_json(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SourceCounts:
        """The inverse of `to_json`."""
        return cls(**document)


@dataclass(slots=True)
class TextFilter:
    """The corpus's filters; counts what they drop, by source."""

    spec: CorpusSpec
    sources: list[SourceCounts] = field(default_factory=list)
    """One for each source, in the order in which they were read."""
    n_by_letters: int = 0
    """Kept texts that have `min_words` words only if those without spaces between them are counted."""

    def texts_of(self, source: SourceSpec, *, most: int | None = None) -> Iterator[str]:
        """The texts of a source that pass, their white space normalised; at most `most` are read."""
        spec = self.spec
        counts = SourceCounts(source=source.source)
        self.sources.append(counts)

        def malformed(line: int) -> None:
            counts.malformed += 1
            counts.first_malformed = counts.first_malformed or line

        for text in islice(read_texts(source, malformed=malformed), most):
            counts.read += 1
            words = text.split()
            text = " ".join(words)
            if not text:
                counts.empty += 1
            elif len(text) < spec.min_characters:
                counts.too_short += 1
            elif len(text) > spec.max_characters:
                counts.too_long += 1
            elif len(words) >= spec.min_words:
                yield text
            elif count_words(text) >= spec.min_words:
                self.n_by_letters += 1
                yield text
            else:
                counts.too_few_words += 1

    @property
    def is_revised(self) -> bool:
        """Whether versions that did not count by source read other texts from the same files."""
        return bool(self.n_by_letters or self.totals["malformed"] or any(map(is_unquoted_table, self.spec.sources)))

    @property
    def totals(self) -> dict[str, int]:
        """The counts of all sources together."""
        names = ("read", "empty", "too_short", "too_long", "too_few_words", "malformed")
        return {name: sum(getattr(counts, name) for counts in self.sources) for name in names}


def counts_lines(spec: CorpusSpec, sources: Iterable[SourceCounts]) -> list[str]:
    """One line for each source: how many texts it has, and how many each filter dropped."""
    lines = []
    for counts in sources:
        dropped = [f"{n:,} with {what}" for n, what, _ in _dropped(spec, counts) if n]
        if counts.empty:
            dropped.append(f"{counts.empty:,} empty")
        lines.append(f"{counts.source}: {counts.read:,} texts, dropped: {', '.join(dropped) or 'none'}")
    return lines


def warnings_of(spec: CorpusSpec, sources: Iterable[SourceCounts]) -> list[str]:
    """One line, with its remedy, for each filter that drops more than `WARNED_SHARE` of a source, and for bad rows."""
    lines = []
    for counts in sources:
        n_texts = counts.read - counts.empty
        for n, what, remedy in _dropped(spec, counts):
            if n > WARNED_SHARE * n_texts:
                lines.append(
                    f"warning: {n:,} of {n_texts:,} texts of {counts.source} ({n / n_texts:.0%}) have {what}; {remedy}"
                )
        if counts.malformed:
            lines.append(
                f"warning: {counts.malformed:,} rows of {counts.source} have more cells than its header and are left "
                f"out, the first in line {counts.first_malformed}; quote cells that hold the delimiter"
            )
    return lines


def nothing_left(spec: CorpusSpec, totals: Mapping[str, int]) -> str:
    """The message for a corpus without a sentence."""
    if not totals["read"]:
        bad = f"; {totals['malformed']} rows have more cells than the header" if totals["malformed"] else ""
        return f"the corpus's sources hold no text{bad}; give files with one sentence a line"
    n_too_short = totals["too_short"] + totals["empty"]
    return (
        f"no sentences are left after filtering: of {totals['read']} texts {n_too_short} have "
        f"fewer than {spec.min_characters} characters, {totals['too_long']} more than {spec.max_characters}, and "
        f"{totals['too_few_words']} fewer than {spec.min_words} words; loosen min_characters, max_characters or "
        "min_words"
    )


def _dropped(spec: CorpusSpec, counts: SourceCounts) -> list[tuple[int, str, str]]:
    """(how many, why in words, remedy) of every filter."""
    return [
        (
            counts.too_short,
            f"fewer than {spec.min_characters} characters",
            "lower corpus.min_characters to keep them",
        ),
        (
            counts.too_long,
            f"more than {spec.max_characters} characters",
            "raise corpus.max_characters to keep them, or split them into sentences",
        ),
        (counts.too_few_words, f"fewer than {spec.min_words} words", "lower corpus.min_words to keep them"),
    ]
