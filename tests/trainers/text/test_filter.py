# SPDX-License-Identifier: Apache-2.0
"""Filters: what each drops is counted by source, and a filter that drops much is warned of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spaces.study.spec import CorpusSpec, SourceSpec
from trainers.text.corpus import check_text
from trainers.text.filter import SourceCounts, TextFilter, counts_lines, warnings_of

ENGLISH = [f"This is the English sentence of number {number}." for number in range(400)]
JAPANESE = [f"昨日は友達と一緒に新しい映画を{number}回も見に行きました。" for number in range(400)]
THAI = [f"เมื่อวานนี้ฉันไปดูหนังเรื่องใหม่กับเพื่อน{number}" for number in range(400)]


def spec_of(*files: Path, **changes: Any) -> CorpusSpec:
    sources = tuple(SourceSpec(source=str(file), column=None if "txt" in file.name else "text") for file in files)
    return CorpusSpec(**({"sources": sources, "held_out": 32} | changes))


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def filtered(spec: CorpusSpec) -> tuple[TextFilter, list[str]]:
    keep = TextFilter(spec)
    return keep, [text for source in spec.sources for text in keep.texts_of(source)]


def test_sentences_without_spaces_pass_the_default_filters(tmp_path: Path) -> None:
    spec = spec_of(write(tmp_path / "a.txt", ENGLISH + JAPANESE + THAI))
    keep, texts = filtered(spec)
    assert texts == ENGLISH + JAPANESE + THAI
    assert warnings_of(spec, keep.sources) == []


def test_titles_without_spaces_are_dropped_as_titles_with_spaces_are(tmp_path: Path) -> None:
    titles = ["東京タワー", "映画館", "The tower", "A film"]
    keep, texts = filtered(spec_of(write(tmp_path / "a.txt", titles), min_characters=1))
    assert (texts, keep.sources[0].too_few_words) == ([], 4)


def test_every_source_has_counts_of_its_own_that_add_up(tmp_path: Path) -> None:
    first = write(tmp_path / "a.txt", [*ENGLISH, "short", "", "x y z w v " * 60, "  ", "noughttwentycharacters"])
    second = write(tmp_path / "b.csv", ["id,text", "1,short", "2,A sentence of a table that is kept.", "3,one, two"])
    spec = spec_of(first, second)
    keep, texts = filtered(spec)
    one = SourceCounts(source=str(first), read=405, empty=2, too_short=1, too_long=1, too_few_words=1)
    two = SourceCounts(source=str(second), read=2, too_short=1, malformed=1, first_malformed=4)
    assert keep.sources == [one, two] and len(texts) == 401
    assert keep.totals == {
        "read": 407, "empty": 2, "too_short": 2, "too_long": 1, "too_few_words": 1, "malformed": 1
    }  # fmt: skip
    assert [SourceCounts.from_json(counts.to_json()) for counts in keep.sources] == keep.sources
    assert counts_lines(spec, keep.sources) == [
        f"{first}: 405 texts, dropped: 1 with fewer than 20 characters, 1 with more than 240 characters, 1 with fewer "
        "than 5 words, 2 empty",
        f"{second}: 2 texts, dropped: 1 with fewer than 20 characters",
    ]


@pytest.mark.parametrize(
    ("lines", "changes", "warning"),
    [
        (
            ["a b c"] * 41 + ENGLISH[:359],
            {},
            "41 of 400 texts of {} (10%) have fewer than 20 characters; lower corpus.m",
        ),
        (["w " * 200] * 200 + ENGLISH[:200], {}, "200 of 400 texts of {} (50%) have more than 240 characters; raise "),
        (["x" * 30] * 100 + ENGLISH[:300], {}, "100 of 400 texts of {} (25%) have fewer than 5 words; lower corpus."),
        (JAPANESE, {"min_words": 30}, "400 of 400 texts of {} (100%) have fewer than 30 words"),
        (["", " "] * 500 + ["x" * 30] * 10 + ENGLISH[:80], {}, "10 of 90 texts of {} (11%) have fewer than 5 words"),
    ],
)
def test_a_filter_that_drops_more_than_a_tenth_of_a_source_is_warned_of(
    lines: list[str], changes: dict[str, Any], warning: str, tmp_path: Path
) -> None:
    other = write(tmp_path / "other.txt", ENGLISH * 20)  # a share is the source's own, not the corpus's
    spec = spec_of(write(tmp_path / "a.txt", lines), other, **changes)
    keep, _ = filtered(spec)
    (told,) = warnings_of(spec, [counts for counts in keep.sources if counts.source != str(other)])
    assert told.startswith("warning: " + warning.format(tmp_path / "a.txt"))


def test_a_tenth_and_empty_lines_are_not_warned_of(tmp_path: Path) -> None:
    spec = spec_of(write(tmp_path / "a.txt", ["short"] * 40 + [""] * 500 + ENGLISH[:360]))
    assert warnings_of(spec, filtered(spec)[0].sources) == []


def test_rows_that_are_left_out_are_warned_of_with_the_first_line(tmp_path: Path) -> None:
    table = write(tmp_path / "a.csv", ["id,text", *(f"1,{text}" for text in ENGLISH), "2,one, two", "3,one, two"])
    spec = spec_of(table)
    (warning,) = warnings_of(spec, filtered(spec)[0].sources)
    assert warning.startswith(
        f"warning: 2 rows of {table} have more cells than its header and are left out, the first in"
    )
    assert "in line 402;" in warning


@pytest.mark.parametrize("name", ["hub:org/data.tsv", "hub:data.tsv.gz", "hub:data.TSV"])
def test_a_data_set_on_the_hub_is_no_file_whatever_its_name(name: str) -> None:
    spec = CorpusSpec(sources=(SourceSpec(source=name, column="text"),))
    assert not TextFilter(spec).is_revised


def test_the_check_before_a_search_returns_the_counts_of_the_first_texts(tmp_path: Path) -> None:
    spec = spec_of(write(tmp_path / "a.txt", ENGLISH + ["short"] * 100))
    assert check_text(spec) == (SourceCounts(source=str(tmp_path / "a.txt"), read=500, too_short=100),)
    assert check_text(spec, most=410)[0].too_short == 10
