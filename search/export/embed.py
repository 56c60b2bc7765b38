# SPDX-License-Identifier: Apache-2.0
"""Embeds a file of sentences with a student folder or a registered model, without torch.

A student folder needs the engine only, so it works with only the `serve` dependencies; a registered model is resolved
through MLflow.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO

import numpy as np

from runtime.folder import DOCUMENT_FILE
from runtime.loading import load
from search.storage.store import Store
from search.storage.streams import STANDARD, is_stdin, is_stdout, is_stream, opened_input, opened_output
from spaces.errors import UserError
from trainers.text.lines import decoded_lines


def embed_file(store: Store, model: str | Path, file: Path, *, out: Path | None = None, n_threads: int = 1) -> Path:
    """Writes the vectors of the lines of `file`, [lines, dimension] float32, as .npy to `out`; returns its path.

    `model` is a student folder, or `NAME`, `NAME@ALIAS`, `NAME/VERSION` of a registered model. `file` and `out` may be
    `-`, a standard stream. `out` None is the name of `file` with .npy added, and standard output for a stream; an
    existing file is replaced. Row i is line i, empty lines included. Raises ValueError or OSError, before anything is
    computed, for an unknown model or unusable text.
    """
    if out is None:
        out = STANDARD if is_stream(file) else file.with_name(f"{file.name}.npy")
    _require_output(out)
    sentences = read_lines(file)
    encoder = load(find_folder(store, model))
    with opened_output(out) as opened:  # opened first, to fail before the work
        _write_npy(opened, encoder.encode(sentences, n_threads=n_threads))
    return out


def read_lines(file: Path) -> list[str]:
    """The lines of a UTF-8 file (.gz: decompressed) or of standard input, without line ends.

    Raises ValueError naming the line that is not UTF-8, or if all lines are empty.
    """
    name = "standard input" if is_stdin(file) else str(file)
    with opened_input(file) as opened:
        packed = file.suffix.lower() == ".gz"
        lines = [line.rstrip("\r\n") for line in decoded_lines(opened, name=name, is_packed=packed)]
    if not any(line.strip() for line in lines):
        raise UserError(f"{name} has no sentence; give one sentence a line")
    return lines


def find_folder(store: Store, model: str | Path) -> Path:
    """The student folder `model`, or that of the registered model of this name."""
    if (Path(model) / DOCUMENT_FILE).is_file():
        return Path(model)
    from search.tracking.registry import resolve_model  # imports MLflow, which a student folder does not need

    return resolve_model(store, model)


def _require_output(out: Path) -> None:
    """Raises ValueError unless vectors can be written to `out`."""
    if is_stdout(out):
        if sys.stdout.isatty():
            raise UserError("vectors are binary, and standard output is a terminal; redirect it, or give --out OUT.npy")
        return
    if is_stream(out):
        return
    if out.suffix != ".npy":
        raise UserError(f"vectors are written as .npy, got {out}; end the name in .npy")
    if not out.parent.is_dir() or out.is_dir():
        raise UserError(f"{out} must be a file in a folder that exists; choose another with --out")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"{out} must be in a folder that can be written to; choose another with --out")


def _write_npy(file: IO[bytes], vectors: np.ndarray) -> None:
    """Writes .npy to a file that may be a pipe, in which `np.save` cannot find its position."""
    vectors = np.ascontiguousarray(vectors)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(vectors))
    file.write(vectors.data)
