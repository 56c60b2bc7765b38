# SPDX-License-Identifier: Apache-2.0
"""The texts of one column of a table: .csv, .tsv, .jsonl (each also .gz) and .parquet files, streamed.

A .csv is read as Python's `csv` and pandas read it, with cells of any length. A .tsv is read so too if all quotation
marks at the beginning of its cells are closed as a program that writes tables closes them; else its quotation marks are
text and every line is a row, as by `pandas.read_csv(sep="\\t", quoting=csv.QUOTE_NONE)`: to know that, a .tsv is read
whole before its first text. A row with more cells than the header is left out and reported. Errors are ValueErrors with
the place (line, or row group) and the remedy.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as parquet

from spaces.errors import UserError
from trainers.text.lines import lines_of

if TYPE_CHECKING:
    import datasets

MOST_CHARACTERS = 2**24  # of a row of several lines: one that is longer has a quotation mark that is never closed
# A quoted cell of so many lines, each with as many delimiters as a row, was opened by mistake. Sentences have commas,
# and hardly ever tabs: a third of English sentences have one comma, and ten in a row by chance are one in 60,000.
_FEWEST_ROWS = {",": 10, "\t": 2}

Malformed = Callable[[int], None]
"""Is told the line of a row that cannot be used."""


def csv_texts(path: Path, column: str, *, delimiter: str, malformed: Malformed) -> Iterator[str]:
    """The cells of a column; a row that is too short for it has none, one with more cells than the header neither."""
    rows = _rows(path, delimiter=delimiter, unquoted=delimiter == "\t" and is_unquoted(path))
    _, header = next(rows, (0, []))
    _require_column(column, header, origin=str(path), delimiter=delimiter)
    index = header.index(column)
    for line, row in rows:
        if any(map(str.strip, row[len(header) :])):
            malformed(line)
        elif index < len(row):
            yield row[index]


def is_unquoted(path: Path) -> bool:
    """Whether quotation marks of a .tsv are text: one opens a cell and is not closed before a tab or the line's end.

    Reads the whole file, once in a process as long as its size and modification time stay the same.
    """
    status = path.stat()
    return _is_unquoted(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)
def _is_unquoted(path: Path, inode: int, n_bytes: int, modified_ns: int) -> bool:
    if not any(line.startswith('"') or '\t"' in line for line in lines_of(path)):
        return False
    try:
        for _ in _rows(path, delimiter="\t", strict=True):
            pass
    except _StrayQuoteError:
        return True
    return False


class _StrayQuoteError(UserError):
    """A quotation mark opens a cell and is not closed, or closed in another row."""


def _rows(
    path: Path, *, delimiter: str, unquoted: bool = False, strict: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """(its first line, its cells) of every row that is not blank, the header included."""
    csv.field_size_limit(sys.maxsize)  # the process's; MOST_CHARACTERS bounds what an open quotation mark swallows
    n_lines = n_columns = n_characters = 0
    row_lines: list[str] = []

    def stray() -> _StrayQuoteError:
        return _StrayQuoteError(
            f"{path}, line {n_lines - len(row_lines) + 1}: a cell that begins with a quotation mark must end with one, "
            f"and this reaches to line {n_lines}; close it, and write quotation marks inside a quoted cell twice"
        )

    def counted() -> Iterator[str]:
        nonlocal n_lines, n_characters
        for line in lines_of(path):
            if row_lines and n_characters > MOST_CHARACTERS:
                raise stray()
            n_lines += 1
            n_characters += len(line)
            row_lines.append(line)
            yield line

    quoting: Literal[0, 3] = csv.QUOTE_NONE if unquoted else csv.QUOTE_MINIMAL
    reader = csv.reader(counted(), delimiter=delimiter, quoting=quoting, strict=strict)
    try:
        for row in reader:
            n_columns = n_columns or len(row)
            if _is_stray(row, row_lines, n_columns=n_columns, delimiter=delimiter):
                raise stray()
            if row:
                yield n_lines - len(row_lines) + 1, row
            row_lines.clear()
            n_characters = 0
    except csv.Error as error:
        if strict:
            raise stray() from None
        raise UserError(
            f"{path}, line {n_lines}: not a table: {error}; end its lines with a line feed, for example with "
            r"`tr '\r' '\n'`"
        ) from None


def _is_stray(row: list[str], lines: list[str], *, n_columns: int, delimiter: str) -> bool:
    """Whether a row is the work of a quotation mark that was not meant to open a cell; `lines` are the row's."""
    if len(lines) > 1:
        try:
            list(csv.reader(lines, delimiter=delimiter, strict=True))
        except csv.Error:
            return True
    if n_columns < 2 or any(line.count(delimiter) != n_columns - 1 for line in lines):
        return False
    return len(lines) >= _FEWEST_ROWS[delimiter] or (delimiter == "\t" and len(row) != n_columns)


def json_texts(path: Path, column: str) -> Iterator[str]:
    """The values of a key, one object a line; null has no text."""
    for number, line in enumerate(lines_of(path), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: not JSON: {error}; a .jsonl file holds one object a line") from None
        if not isinstance(row, dict):
            raise UserError(f"{place}: must be a JSON object, got {type(row).__name__}; write one object a line")
        _require_column(column, row, origin=place)
        if row[column] is not None:
            yield _require_text(row[column], column, place=place)


def parquet_texts(path: Path, column: str) -> Iterator[str]:
    """The texts of a column of text, or of a dictionary of text (pandas' categorical); null has none."""
    try:
        file = parquet.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a Parquet file: {_first_line(error)}; write it again") from None
    with file:
        _require_column(column, file.schema_arrow.names, origin=str(path))
        _require_text_type(file.schema_arrow.field(column).type, column, origin=str(path))
        for group in range(file.num_row_groups):
            place = f"{path}, row group {group} of {file.num_row_groups}"
            try:
                for batch in file.iter_batches(columns=[column], row_groups=[group]):
                    yield from (text for text in batch.column(0).to_pylist() if text is not None)
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{place}: text must be UTF-8, byte 0x{error.object[error.start]:02x} of {error.object[:40]!r} is "
                    "not; write the column again as UTF-8"
                ) from None
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{place}: damaged: {_first_line(error)}; copy or write the file again") from None


def dataset_texts(dataset: datasets.Dataset, column: str | None, *, origin: str) -> Iterator[str]:
    """The texts of one column of a `datasets` data set."""
    _require_column(column or "", dataset.column_names, origin=origin)
    for number, text in enumerate(dataset[column]):
        if text is not None:
            yield _require_text(text, str(column), place=f"{origin}, row {number}")


def _require_column(column: str, columns: Iterable[str], *, origin: str, delimiter: str | None = None) -> None:
    columns = list(columns)
    if columns.count(column) > 1:
        raise UserError(f"{origin}: a column must be the only one of its name, and {column!r} is not; rename one")
    if column in columns:
        return
    existing = ", ".join(map(repr, columns)) or "none"
    others = [other for other in ",;\t|" if delimiter and len(columns) == 1 and other in columns[0]]
    if others:
        raise UserError(
            f"{origin}: the cells of a .csv are separated by commas, of a .tsv by tabs, and its header {existing} has "
            f"{others[0]!r}; save it as one of the two"
        )
    raise UserError(f"{origin}: there is no column {column!r}; set column to one that exists: {existing}")


def _require_text(value: Any, column: str, *, place: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{place}: column {column!r} must hold text, got {value!r}; name the column of the sentences")
    return value


def _require_text_type(kind: pa.DataType, column: str, *, origin: str) -> None:
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values)):
        raise UserError(f"{origin}: column {column!r} must hold text, got {kind}; name the column of the sentences")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
