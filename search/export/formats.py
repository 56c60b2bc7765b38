# SPDX-License-Identifier: Apache-2.0
"""Exports a student as its folder, a sentence-transformers folder, or an ONNX graph.

Every format gives the same vectors (cosine at least 0.9999). A student that a format cannot represent is an error that
says why. The output is moved into place atomically, and nothing is overwritten.
"""

from __future__ import annotations

import shutil
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import assert_never

from runtime.atomic import move_into_place
from runtime.folder import StudentFolder, read_folder
from search.export.onnx_folder import write_onnx_folder
from search.export.sentence_transformers import write_sentence_transformers
from search.storage.store import Store
from search.tracking.registry import resolve_model
from spaces.errors import UserError
from trainers.measure.onnx_graph import write_onnx


class ExportFormat(StrEnum):
    """The formats of an export."""

    FOLDER = "folder"
    SENTENCE_TRANSFORMERS = "sentence-transformers"
    ONNX = "onnx"


def export_model(store: Store, model: str | Path, out: Path, *, format: ExportFormat | str) -> Path:
    """Exports the registered model or student folder `model` to `out`; returns `out`. Errors as of `export`."""
    return export(resolve_model(store, model), out, format=format)


def export(folder: Path, out: Path, *, format: ExportFormat | str) -> Path:
    """Writes the student in `folder` to `out` (a folder; one file for ONNX if the name ends in .onnx); returns `out`.

    Raises ValueError if the format cannot represent the student, or if `out` exists and is not an empty folder.
    """
    try:
        wanted = ExportFormat(format)
    except ValueError:
        names = ", ".join(choice.value for choice in ExportFormat)
        raise UserError(f"the format must be one of {names}, got {format!r}") from None
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists; nothing is overwritten: choose another name, or remove it first")
    student = read_folder(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        written = Path(temporary) / "export"
        written.mkdir()
        match wanted:
            case ExportFormat.FOLDER:
                _copy(student, written)
            case ExportFormat.SENTENCE_TRANSFORMERS:
                write_sentence_transformers(student, written)
            case ExportFormat.ONNX if out.suffix == ".onnx":
                written = _single_onnx_file(student, written, out)
            case ExportFormat.ONNX:
                write_onnx_folder(student, written)
            case _:
                assert_never(wanted)
        for path in (written, *written.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)  # some writers create files with mode 0600
        move_into_place(written, out, durable=False, may_replace=False)
    return out


def _copy(student: StudentFolder, out: Path) -> None:
    for name in ("student.json", "model.safetensors", "tokenizer.json"):
        shutil.copyfile(student.path / name, out / name)


def _single_onnx_file(student: StudentFolder, folder: Path, out: Path) -> Path:
    write_onnx(student, folder / "model.onnx")
    if len(list(folder.iterdir())) > 1:
        raise UserError(f"this student's weights exceed one ONNX file; give a folder instead of {out}")
    return folder / "model.onnx"
