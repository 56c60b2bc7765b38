# SPDX-License-Identifier: Apache-2.0
"""The lines of a text file, plain or compressed by gzip, streamed; bad bytes are reported with their line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from spaces.errors import UserError

_MAGIC = {  # how files begin that are no text, and what they are
    b"\x1f\x8b": ("compressed by gzip", "end its name in .gz, or decompress it"),
    b"PK\x03\x04": ("a ZIP archive, as an .xlsx workbook is", "unpack it, or save it as .csv"),
    b"BZh": ("compressed by bzip2", "decompress it, or compress it by gzip and end its name in .gz"),
    b"\xfd7zXZ\x00": ("compressed by xz", "decompress it, or compress it by gzip and end its name in .gz"),
    b"\x28\xb5\x2f\xfd": ("compressed by Zstandard", "decompress it, or compress it by gzip and end its name in .gz"),
    b"PAR1": ("a Parquet file", "end its name in .parquet"),
}


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a plain or gzip file, with their ends. Raises ValueError naming the line that is not UTF-8."""
    with path.open("rb") as file:
        yield from decoded_lines(file, name=str(path), is_packed=path.suffix.lower() == ".gz")


def decoded_lines(file: IO[bytes], *, name: str, is_packed: bool = False) -> Iterator[str]:
    """The lines of a file of UTF-8, compressed by gzip if `is_packed`; `name` is for messages."""
    number = 0
    try:
        lines = gzip.GzipFile(fileobj=file) if is_packed else file
        for number, line in enumerate(lines, start=1):
            if number == 1:
                _require_text(line, name)
            if b"\0" in line:
                raise UserError(
                    f"{name}, line {number}: text must be UTF-8 and this holds NUL bytes, as UTF-16 and binary "
                    "files do; convert it, for example with `iconv -f UTF-16 -t UTF-8`"
                )
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}, line {number}: text must be UTF-8, byte 0x{error.object[error.start]:02x} at position "
            f"{error.start} is not; convert it, for example with `iconv -f ISO-8859-1 -t UTF-8`"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{name}, after line {number}: not a whole gzip file ({error}); compress or copy it again"
        ) from None


def _require_text(line: bytes, name: str) -> None:
    for magic, (what, remedy) in _MAGIC.items():
        if line.startswith(magic):
            raise UserError(f"{name}: text must be what its name says, and this is {what}; {remedy}")
