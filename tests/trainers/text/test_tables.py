# SPDX-License-Identifier: Apache-2.0
"""Tables: the same texts as pandas, every row of them, and bad rows and files explained with their place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import trainers.text.tables as tables
from spaces.errors import UserError
from spaces.study.spec import SourceSpec
from trainers.text.sources import read_texts


def texts_of(path: Path, column: str | None = "text") -> list[str]:
    return list(read_texts(SourceSpec(source=str(path), column=column)))


def by_pandas(path: Path, *, sep: str, quoting: int, column: str = "text") -> list[str]:
    frame = pd.read_csv(path, sep=sep, quoting=quoting, dtype=str, keep_default_na=False, encoding="utf-8")  # type: ignore[call-overload]
    return [text for text in frame[column] if isinstance(text, str)]


def tsv(*cells: str, n_rows: int = 12) -> str:
    """A table with these texts in the middle of others."""
    rows = [f"{row}\tA text of row {row}, as others are.\tx" for row in range(n_rows)]
    middle = n_rows // 2
    rows[middle:middle] = [f"{n_rows + i}\t{cell}\ty" for i, cell in enumerate(cells)]
    return "\n".join(["id\ttext\tlabel", *rows]) + "\n"


@pytest.mark.parametrize(
    "cells",
    [
        ('"It never closes',),
        ('"Yes," she said',),
        ('"It never closes', '"Yes," she said'),
        ('"Opened here', "and five more", 'a board of 6"'),
        ('"', "one alone"),
        ('"""', "three of them"),
        ('"Yes."', '"Yes," she said'),
        ('"a" and "b"', 'no "a" here'),
        ('"closed with a space" ', "x"),
        ('"backslash \\" inside"', "x"),
        ('""doubled at both ends""', "x"),
        ('"Opened', 'closed, and a second one"', '"Opened', 'closed"'),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_quotation_marks_that_close_no_cell_are_text_in_a_tsv(
    cells: tuple[str, ...], packed: bool, tmp_path: Path
) -> None:
    text, path = tsv(*cells), tmp_path / ("t.tsv.gz" if packed else "t.tsv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    read = texts_of(path)
    assert read == by_pandas(path, sep="\t", quoting=csv.QUOTE_NONE)
    assert len(read) == 12 + len(cells)


def test_three_thousand_rows_with_two_stray_quotation_marks_are_three_thousand_texts(tmp_path: Path) -> None:
    rows = [[str(i), f"Sentence number {i} of the table.", "a"] for i in range(3000)]
    rows[700][1], rows[2401][1] = '"An opened cell that does not close', '"Yes," she said'
    path = tmp_path / "t.tsv"
    path.write_text("\n".join(["\t".join(row) for row in [["id", "text", "label"], *rows]]) + "\n")
    assert texts_of(path) == [row[1] for row in rows]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_what_a_writer_of_tables_quotes_is_read_as_it_was(quoting: int, suffix: str, tmp_path: Path) -> None:
    texts = [
        'He said "no" to all.',
        '"Yes," she said',
        "two\nlines, and\ta tab",
        "a\n\n\nb, c\n" * 8,
        "x" * 200_000,
        '"',
        "5' 6\"",
        "a, b,\tc",
        "  spaces ",
    ]
    frame = pd.DataFrame({"id": range(len(texts)), "text": texts, "label": "a"})
    path = tmp_path / f"t{suffix}"
    frame.to_csv(path, sep="," if suffix == ".csv" else "\t", quoting=quoting, index=False)  # type: ignore[call-overload]
    assert texts_of(path) == texts


@given(
    cells=st.lists(
        st.tuples(*[st.text(alphabet='a",\t\n é', max_size=12)] * 2).filter(lambda row: any(map(str.strip, row))),
        min_size=1,
        max_size=8,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize(("suffix", "dialect"), [(".csv", "excel"), (".tsv", "excel-tab")])
def test_any_written_table_is_read_as_it_was(
    cells: list[tuple[str, str]], suffix: str, dialect: str, tmp_path: Path
) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, dialect, quoting=csv.QUOTE_ALL).writerows([("id", "text", "n")] + [(*row, "0") for row in cells])
    (tmp_path / f"t{suffix}").write_bytes(buffer.getvalue().encode())
    ambiguous = suffix == ".tsv" and any("\n" in cell and "\t" in cell for row in cells for cell in row)
    if not ambiguous:
        assert texts_of(tmp_path / f"t{suffix}") == [row[1] for row in cells]


@given(content=st.text(alphabet='a",\n', max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_csv_is_read_as_by_the_standard_library_or_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,text\n" + content)
    rows = list(csv.DictReader(io.StringIO("id,text\n" + content)))
    whole = [row for row in rows if not any(map(str.strip, row.get(None, [])))]  # type: ignore[call-overload]
    try:
        assert texts_of(path) == [row["text"] for row in whole if row["text"] is not None]
    except UserError as error:
        assert content.count('"') > 0 and "must end with one" in str(error)


@example(rows=[('"opened', 'closed in the next cell"')])
@given(rows=st.lists(st.tuples(*[st.text(alphabet='a" ', max_size=6)] * 2), max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_line_of_a_tsv_of_whole_rows_is_a_text(rows: list[tuple[str, str]], tmp_path: Path) -> None:
    path = Path(tempfile.mkdtemp(dir=tmp_path)) / "t.tsv"  # a file is read once for its quotation marks
    path.write_text("\n".join(["id\ttext", *map("\t".join, rows)]))
    if tables.is_unquoted(path):
        assert texts_of(path) == [text for _, text in rows]
    else:
        assert texts_of(path) == [text[1:-1].replace('""', '"') if text.startswith('"') else text for _, text in rows]


def test_a_tsv_is_read_for_its_quotation_marks_again_only_if_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text('id\ttext\n1\t"opened\n')
    assert tables.is_unquoted(path)
    before = path.stat()
    path.write_text('id\ttext\n1\t"close"\n')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert tables.is_unquoted(path)  # as far as size and time tell, it is the same file
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert not tables.is_unquoted(path)
    path.write_text('id\ttext\n1\t"opened again\n')
    assert tables.is_unquoted(path)


@pytest.mark.parametrize("place", ["text", "other"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".jsonl"])
def test_a_cell_of_any_length_leaves_the_other_rows_alone(place: str, suffix: str, tmp_path: Path) -> None:
    long = "long " * 40_000
    rows = [{"text": f"text {i}", "other": "b"} for i in range(5)]
    rows[2][place] = long
    path = tmp_path / f"t{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pd.DataFrame(rows).to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    assert texts_of(path) == [row["text"] for row in rows]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('id,text\n1,"never closed\n2,b\n3,c\n', 2),
        ('id,text\n1,a\n2,"opened\n3,"Yes," she said\n4,d\n', 3),
        ('id,text\n1,a\n2,"opened\n' + "".join(f"{i},row\n" for i in range(3, 30)) + '30,a board of 6"\n31,b\n', 3),
    ],
)
def test_a_csv_cell_that_swallows_rows_is_refused_with_its_line(content: str, line: int, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(UserError, match=rf"t\.csv, line {line}: a cell that begins with a quotation mark must end"):
        texts_of(tmp_path / "t.csv")


def test_an_open_quotation_mark_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_CHARACTERS", 1000)
    (tmp_path / "t.csv").write_text('id,text\n1,"open\n' + "2,more\n" * 10_000 + '3,"closed"\n')
    with pytest.raises(UserError, match=r"line 2: .* and this reaches to line 1\d\d;"):
        texts_of(tmp_path / "t.csv")


def test_quoted_lines_of_sentences_with_a_comma_each_are_one_cell(tmp_path: Path) -> None:
    verses = "\n".join(["Roses are red, violets are blue", "Sugar is sweet, and so are you"] * 3)
    path = tmp_path / "t.csv"
    pd.DataFrame({"id": [1], "text": [verses]}).to_csv(path, index=False)
    assert texts_of(path) == [verses] == by_pandas(path, sep=",", quoting=csv.QUOTE_MINIMAL)


def test_rows_of_more_cells_than_the_header_are_left_out_and_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\nid,text\n1,one\n\n2,two, and more\n3,three,\n4\n5,five\n6,six, seven\n")
    lines: list[int] = []
    source = SourceSpec(source=str(path), column="text")
    assert list(read_texts(source, malformed=lines.append)) == ["one", "three", "five"]
    assert lines == [5, 9]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"id;text\n1;a\n", "separated by commas, of a .tsv by tabs, and its header 'id;text' has ';'"),
        ("a.csv", b"id\ttext\n1\ta\n", r"header 'id\\ttext' has '\\t'; save it as one of the two"),
        ("a.tsv", b"id,text\n1,a\n", "header 'id,text' has ','"),
        ("a.csv", b"text,text\na,b\n", "must be the only one of its name, and 'text' is not; rename one"),
        ("a.csv", b"id,text\r1,a\r2,b\r", "line 1: not a table: .*line feed"),
        ("a.csv", b"", "a.csv is empty"),
        ("a.csv", b"\n\n", "no column 'text'; .*none"),
        ("a.csv", gzip.compress(b"text\na\n", mtime=0), "compressed by gzip; end its name in .gz"),
        ("a.csv", b"PK\x03\x04....", "a ZIP archive, as an .xlsx workbook is"),
        ("a.tsv", b"PAR1\x15....", "a Parquet file; end its name in .parquet"),
        ("a.csv.gz", b"text\na\n", "after line 0: not a whole gzip file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "x"}\n{"text": 3}\n', mtime=0),
            "a.jsonl.gz, line 2: column 'text' must hold",
        ),
        ("a.tsv.gz", gzip.compress(b"text\nna\xefve\n", mtime=0), "a.tsv.gz, line 2: text must be UTF-8"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: not JSON"),
    ],
)
def test_a_bad_table_is_explained_with_its_place(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        texts_of(tmp_path / name)


@pytest.mark.parametrize("suffix", [".csv.gz", ".tsv.gz", ".jsonl.gz", ".CSV.GZ"])
def test_compressed_tables_are_read(suffix: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": range(3), "text": ["a, b", "c\td", "e"]})
    path = tmp_path / f"t{suffix}"
    if "jsonl" in suffix:
        frame.to_json(path, orient="records", lines=True, compression="gzip")
    else:
        frame.to_csv(path, index=False, sep="\t" if "tsv" in suffix else ",", compression="gzip")
    assert texts_of(path) == list(frame["text"])


@pytest.mark.parametrize("suffix", [".txt.bz2", ".csv.zip", ".jsonl.zst", ".json", ".xlsx", ".parquet.gz", ".gz"])
def test_other_endings_are_refused_by_the_study_file(suffix: str) -> None:
    with pytest.raises(UserError, match=r"must end in .*\.csv\.gz"):
        SourceSpec(source=f"t{suffix}", column="text")


TEXTS = ["a b", "c", "a b", None, "é"]


@pytest.mark.parametrize(
    "column",
    [
        pd.Categorical(TEXTS),
        pd.Series(TEXTS, dtype="string"),
        pa.array(TEXTS).dictionary_encode(),
        pa.array(TEXTS, pa.large_string()).dictionary_encode(),
        pa.array(TEXTS, pa.string_view()),
    ],
)
def test_every_kind_of_text_in_parquet_is_read(column: object, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    if isinstance(column, pa.Array):
        parquet.write_table(pa.table({"a.b": ["x"] * 5, "text": column}), path, row_group_size=2)
    else:
        pd.DataFrame({"a.b": ["x"] * 5, "text": column}).to_parquet(path)
    assert texts_of(path) == [text for text in pd.read_parquet(path)["text"] if isinstance(text, str)]
    assert texts_of(path, "a.b") == ["x"] * 5


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1, 2]).dictionary_encode(), "must hold text, got int64"),
        (pa.array([b"a", b"b"]), "must hold text, got binary"),
        (pa.array([["a"], ["b"]]), "must hold text, got list<"),
        (pa.array([None, None]), "must hold text, got null"),
    ],
)
def test_a_parquet_column_of_another_kind_is_refused(column: pa.Array, message: str, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": column}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=message):
        texts_of(tmp_path / "t.parquet")


def test_two_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="'text' is not; rename one"):
        texts_of(tmp_path / "t.parquet")


def test_text_in_parquet_that_is_not_utf8_is_named_with_its_row_group(tmp_path: Path) -> None:
    good = pa.array(["abc", "def"])
    offsets, data = pa.py_buffer(b"\x00\x00\x00\x00\x03\x00\x00\x00\x06\x00\x00\x00"), pa.py_buffer(b"abcx\xffy")
    with parquet.ParquetWriter(tmp_path / "t.parquet", pa.schema([("text", pa.string())])) as writer:
        writer.write_table(pa.table({"text": good}))
        writer.write_table(pa.table({"text": pa.StringArray.from_buffers(2, offsets, data)}))
    with pytest.raises(UserError, match=r"t\.parquet, row group 1 of 2: text must be UTF-8, byte 0xff of b'x\\xffy'"):
        texts_of(tmp_path / "t.parquet")


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
@pytest.mark.parametrize("place", ["header", "data"])
def test_a_damaged_page_of_parquet_is_named_with_its_row_group(compression: str, place: str, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    texts = [f"line {i} of text {i * i * 7919 % 1_000_003}" for i in range(2000)]
    parquet.write_table(
        pa.table({"text": texts}),
        path,
        row_group_size=500,
        compression=compression,
        use_dictionary=False,
        write_page_checksum=True,
    )
    column = parquet.ParquetFile(path).metadata.row_group(2).column(0)
    content = bytearray(path.read_bytes())
    start = column.data_page_offset + (0 if place == "header" else column.total_compressed_size - 100)
    for i in range(start, start + 20):
        content[i] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"t\.parquet, row group 2 of 4: damaged: .*; copy or write the file again"):
        texts_of(path)
