# SPDX-License-Identifier: Apache-2.0
"""Prints lines of text, wrapped between words on a terminal; a file or a pipe gets every line whole."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from typing import IO

MAX_INDENT_SHARE = 0.5  # of the terminal's width; a line whose last column begins further right is not indented


def print_text(text: str, *, file: IO[str] | None = None) -> None:
    """Prints the text to `file` (None: stdout); the rest of a long line is indented as its last column."""
    out = sys.stdout if file is None else file
    if out.isatty():
        width = shutil.get_terminal_size().columns
        text = "\n".join(wrap_line(line, width) for line in text.splitlines())
    print(text, file=out, flush=True)


def wrap_line(line: str, width: int) -> str:
    """The line with breaks between words, no part longer than `width` unless a single word is."""
    found = re.match(r"(?:.*?\S)?\s{2,}(?=\S)(?:\S+\s{2,}(?=\S))*", line)
    indent = 0 if found is None or found.end() > MAX_INDENT_SHARE * width else found.end()
    return textwrap.fill(
        line, max(width, 1), subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
