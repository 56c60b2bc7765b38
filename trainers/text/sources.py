# SPDX-License-Identifier: Apache-2.0
"""The texts of a corpus's sources, one after another: files and hub data sets are streamed, never held whole.

Errors are ValueErrors with the place (file and line) and the remedy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import assert_never

from spaces.errors import UserError
from spaces.study.spec import SourceKind, SourceSpec
from trainers.text.hub import load_dataset
from trainers.text.installed_docs import installed_docs, installed_docs_identity
from trainers.text.lines import lines_of
from trainers.text.tables import Malformed, csv_texts, dataset_texts, is_unquoted, json_texts, parquet_texts

HASHED_BYTES = 64 * 2**20  # a larger file is named by path, size and modification time, so that a key costs no minute


def read_texts(source: SourceSpec, *, malformed: Malformed = lambda line: None) -> Iterator[str]:
    """Every text of a source, in its order and unfiltered; `malformed` is told the lines of rows that are left out."""
    match source.kind:
        case SourceKind.INSTALLED_DOCS:
            return iter(installed_docs())
        case SourceKind.HUB:
            dataset = load_dataset(source.reference, configuration=source.configuration, split=source.split)
            return dataset_texts(dataset, source.column, origin=source.source)
        case SourceKind.FILE:
            return _file_texts(_path(source), source.column or "", malformed=malformed)
        case SourceKind.PACKAGE | SourceKind.FOLDER:
            raise UserError(f"a source of text is installed-docs, hub:NAME or a file, got {source.source!r}")
        case _:
            assert_never(source.kind)


def is_unquoted_table(source: SourceSpec) -> bool:
    """Whether a source is a .tsv file whose quotation marks are text."""
    is_table = source.kind is SourceKind.FILE and source.source.lower().endswith((".tsv", ".tsv.gz"))
    return is_table and is_unquoted(_path(source))


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


def _file_texts(path: Path, column: str, *, malformed: Malformed) -> Iterator[str]:
    name = path.name.lower().removesuffix(".gz")
    match Path(name).suffix:
        case ".parquet":
            return parquet_texts(path, column)
        case ".jsonl":
            return json_texts(path, column)
        case ".csv":
            return csv_texts(path, column, delimiter=",", malformed=malformed)
        case ".tsv":
            return csv_texts(path, column, delimiter="\t", malformed=malformed)
        case _:
            return (line.rstrip("\r\n") for line in lines_of(path))
