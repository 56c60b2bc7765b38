# SPDX-License-Identifier: Apache-2.0
"""Load a student folder: on the native engine, or exactly on NumPy."""

from __future__ import annotations

import warnings
from pathlib import Path

from runtime.encoder import Encoder
from runtime.engine import Engine, is_built
from runtime.folder import StudentFolder, read_folder
from runtime.tokenizer import SentenceTokenizer


def load(folder: str | Path) -> Engine | Encoder:
    """The student of a folder on the native engine, ready to `encode`. Raises as `runtime.folder.read_folder` does.

    Where the engine is not built it runs on NumPy, and a warning says so.
    """
    if not is_built():
        warnings.warn("the native engine is not built, so NumPy runs this student, slowly", stacklevel=2)
        return load_exact(folder)
    student = read_folder(folder, mapped=True)  # the engine copies them into its packed format
    return Engine(student.spec, student.weights, tokenizer=_tokenizer(student), are_checked=True)


def load_exact(folder: str | Path) -> Encoder:
    """The student of a folder in float32 on NumPy: slower; the reference for the engine's rounding error."""
    student = read_folder(folder)
    return Encoder(student.spec, student.weights, tokenizer=_tokenizer(student), are_checked=True)


def _tokenizer(student: StudentFolder) -> SentenceTokenizer:
    return SentenceTokenizer(student.tokenizer_path, max_tokens=student.max_tokens)
