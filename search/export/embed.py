# SPDX-License-Identifier: Apache-2.0
"""A file of sentences to a file of vectors, by a student of the registry or of a folder; no torch is needed.

A student folder is run by the engine alone, so this command works where only serving is installed; a registered model
is looked up in MLflow.
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
    """Write the vector of every line of `file`, [lines, dimension] float32, to `out`; its path.

    `model` is a student folder, or `NAME`, `NAME@ALIAS`, `NAME/VERSION` of a registered model. `out` None is `file`
    with the suffix .npy; an older file there is replaced. Row i is line i: an empty line has a vector too. Raises
    ValueError or OSError, before anything is computed, for an unknown model and for text that cannot be used.
    """
    sentences = read_lines(file)
    out = file.with_suffix(".npy") if out is None else out
    if out.suffix != ".npy":
        raise UserError(f"vectors are written as .npy, got {out}; end the name in .npy")
    if not out.parent.is_dir() or out.is_dir():
        raise UserError(f"{out} must be a file in a folder that exists; choose another with --out")
    encoder = load(find_folder(store, model))
    with atomic_file(out, durable=False) as opened:  # before the work: a folder that cannot be written is known at once
        np.save(opened, encoder.encode(sentences, n_threads=n_threads), allow_pickle=False)
    return out


def read_lines(file: Path) -> list[str]:
    """The lines of a UTF-8 file, without their ends. Raises ValueError if there is none or it is no text."""
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
        raise UserError(f"{file} holds no sentence; give a file with a sentence a line")
    return [line.rstrip("\r") for line in lines]


def find_folder(store: Store, model: str | Path) -> Path:
    """The student folder of a path or of a registered model."""
    if (Path(model) / DOCUMENT_FILE).is_file():
        return Path(model)
    from search.tracking.registry import resolve_model  # looks into MLflow, which serving does not need

    return resolve_model(store, model)
