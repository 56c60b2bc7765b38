# SPDX-License-Identifier: Apache-2.0
"""The texts of a corpus's sources, one after another: files and hub data sets are streamed, never held whole.

Errors are ValueErrors with the place (file and line) and the remedy.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import pyarrow as pa
import pyarrow.parquet as parquet

from spaces.errors import UserError
from spaces.study.spec import SourceKind, SourceSpec
from trainers.text.hub import load_dataset
from trainers.text.installed_docs import installed_docs, installed_docs_identity

if TYPE_CHECKING:
    import datasets

HASHED_BYTES = 64 * 2**20  # a larger file is named by path, size and modification time, so that a key costs no minute


def read_texts(source: SourceSpec) -> Iterator[str]:
    """Every text of a source, in its order and unfiltered."""
    match source.kind:
        case SourceKind.INSTALLED_DOCS:
            return iter(installed_docs())
        case SourceKind.HUB:
            dataset = load_dataset(source.reference, configuration=source.configuration, split=source.split)
            return dataset_texts(dataset, source.column, origin=source.source)
        case SourceKind.FILE:
            return _file_texts(_path(source), source.column)
        case SourceKind.PACKAGE | SourceKind.FOLDER:
            raise UserError(f"a source of text is installed-docs, hub:NAME or a file, got {source.source!r}")
        case _:
            assert_never(source.kind)


def source_identity(source: SourceSpec) -> str:
    """A digest of what `read_texts` would return: equal texts may differ in it, different texts never agree."""
    match source.kind:
        case SourceKind.INSTALLED_DOCS:
            content = installed_docs_identity()
        case SourceKind.HUB:
            dataset = load_dataset(source.reference, configuration=source.configuration, split=source.split)
            checksums = json.dumps(dataset.info.download_checksums, sort_keys=True, default=str)
            content = f"{dataset.info.version} {dataset.num_rows} {checksums}"
        case SourceKind.FILE | SourceKind.PACKAGE | SourceKind.FOLDER:
            content = _file_identity(_path(source))
        case _:
            assert_never(source.kind)
    fields = [source.kind, source.column, source.split, source.configuration, content]
    name = source.reference if source.kind is SourceKind.HUB else ""
    return hashlib.sha256(json.dumps([name, *fields]).encode()).hexdigest()


def _path(source: SourceSpec) -> Path:
    path = Path(source.source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no text file {path}; give a path that exists, or installed-docs")
    if not path.is_file():
        raise UserError(f"a source of text is a file, and {path} is not one; name the files in the folder")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty; give a file with one sentence a line")
    return path


def _file_identity(path: Path) -> str:
    status = path.stat()
    if status.st_size > HASHED_BYTES:
        return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    with path.open("rb") as file:
        return f"{''.join(path.suffixes[-2:])} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def _file_texts(path: Path, column: str | None) -> Iterator[str]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_texts(path, column or "")
    if suffix == ".jsonl":
        return _json_texts(path, column or "")
    if suffix in (".csv", ".tsv"):
        return _csv_texts(path, column or "", delimiter="\t" if suffix == ".tsv" else ",")
    return (line.rstrip("\r\n") for line in _lines(path))


def _lines(path: Path) -> Iterator[str]:
    """The lines of a plain or gzip file, with their ends. Raises ValueError naming the line that is not UTF-8."""
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                if b"\0" in line:
                    raise UserError(
                        f"{path}, line {number}: text must be UTF-8 and this holds NUL bytes, as UTF-16 and binary "
                        "files do; convert it, for example with `iconv -f UTF-16 -t UTF-8`"
                    )
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, line {number}: text must be UTF-8, byte 0x{error.object[error.start]:02x} at position "
            f"{error.start} is not; convert it, for example with `iconv -f ISO-8859-1 -t UTF-8`"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}, after line {number}: not a whole gzip file ({error}); compress or copy it again"
        ) from None


def _open(path: Path) -> io.BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _csv_texts(path: Path, column: str, *, delimiter: str) -> Iterator[str]:
    reader = csv.DictReader(_lines(path), delimiter=delimiter)
    try:
        _require_column(column, reader.fieldnames or (), origin=str(path))
        for row in reader:
            if row[column] is not None:  # the row is too short
                yield row[column]
    except csv.Error as error:
        raise UserError(f"{path}, after line {reader.line_num}: not a table: {error}; repair the row") from None


def _json_texts(path: Path, column: str) -> Iterator[str]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{place}: not JSON: {error}; a .jsonl file holds one object a line") from None
        if not isinstance(row, dict):
            raise UserError(f"{place}: must be a JSON object, got {type(row).__name__}; write one object a line")
        _require_column(column, row, origin=place)
        if row[column] is not None:
            yield _require_text(row[column], column, place=place)


def _parquet_texts(path: Path, column: str) -> Iterator[str]:
    try:
        with parquet.ParquetFile(path) as file:
            _require_column(column, file.schema_arrow.names, origin=str(path))
            _require_text_type(file.schema_arrow.field(column).type, column, origin=str(path))
            for batch in file.iter_batches(columns=[column]):
                yield from (text for text in batch.column(0).to_pylist() if text is not None)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a Parquet file: {error}; write it again") from None


def dataset_texts(dataset: datasets.Dataset, column: str | None, *, origin: str) -> Iterator[str]:
    """The texts of one column of a `datasets` data set."""
    _require_column(column or "", dataset.column_names, origin=origin)
    for number, text in enumerate(dataset[column]):
        if text is not None:
            yield _require_text(text, str(column), place=f"{origin}, row {number}")


def _require_column(column: str, columns: Iterable[str], *, origin: str) -> None:
    if column not in (columns := list(columns)):
        existing = ", ".join(map(repr, columns)) or "none"
        raise UserError(f"{origin}: there is no column {column!r}; set column to one that exists: {existing}")


def _require_text(value: Any, column: str, *, place: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{place}: column {column!r} must hold text, got {value!r}; name the column of the sentences")
    return value


def _require_text_type(kind: pa.DataType, column: str, *, origin: str) -> None:
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UserError(f"{origin}: column {column!r} must hold text, got {kind}; name the column of the sentences")
