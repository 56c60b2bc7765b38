# SPDX-License-Identifier: Apache-2.0
"""Embeds a file of sentences with a student folder or a registered model, without torch.

A student folder needs the engine only, so it works with only the `serve` dependencies; a registered model is resolved
through MLflow.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runtime.atomic import atomic_file
from runtime.folder import DOCUMENT_FILE
from runtime.loading import load
from search.storage.store import Store
from spaces.errors import UserError


def embed_file(store: Store, model: str | Path, file: Path, *, out: Path | None = None, n_threads: int = 1) -> Path:
    """Writes the vectors of the lines of `file`, [lines, dimension] float32, to `out`; returns its path.

    `model` is a student folder, or `NAME`, `NAME@ALIAS`, `NAME/VERSION` of a registered model. `out` None is `file`
    with the suffix .npy; an existing file is replaced. Row i is line i, empty lines included. Raises ValueError or
    OSError, before anything is computed, for an unknown model or unusable text.
    """
    sentences = read_lines(file)
    out = file.with_suffix(".npy") if out is None else out
    if out.suffix != ".npy":
        raise UserError(f"vectors are written as .npy, got {out}; end the name in .npy")
    if not out.parent.is_dir() or out.is_dir():
        raise UserError(f"{out} must be a file in a folder that exists; choose another with --out")
    encoder = load(find_folder(store, model))
    with atomic_file(out, durable=False) as opened:  # opened first, to fail before the work
        np.save(opened, encoder.encode(sentences, n_threads=n_threads), allow_pickle=False)
    return out


def read_lines(file: Path) -> list[str]:
    """The lines of a UTF-8 file without line ends. Raises ValueError if it is not UTF-8 or all lines are empty."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: sentences must be UTF-8, byte 0x{error.object[error.start]:02x} at {error.start} is not; "
            "convert it, for example with `iconv -f ISO-8859-1 -t UTF-8`"
        ) from None
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    if not any(line.strip() for line in lines):
        raise UserError(f"{file} has no sentence; give a file with one sentence a line")
    return [line.rstrip("\r") for line in lines]


def find_folder(store: Store, model: str | Path) -> Path:
    """The student folder `model`, or that of the registered model of this name."""
    if (Path(model) / DOCUMENT_FILE).is_file():
        return Path(model)
    from search.tracking.registry import resolve_model  # imports MLflow, which a student folder does not need

    return resolve_model(store, model)
