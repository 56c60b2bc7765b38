# SPDX-License-Identifier: Apache-2.0
"""Saves a torch student as a student folder and loads it, bit for bit, without a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from runtime.folder import read_folder, write_folder
from spaces.student import StudentSpec
from trainers.modules.build import student_from_weights, weights_of
from trainers.modules.device import CPU
from trainers.modules.student import Student


def save_student(
    student: Student,
    folder: str | Path,
    *,
    spec: StudentSpec,
    tokenizer_json: str,
    document: Mapping[str, Any] | None = None,
) -> Path:
    """Write the student's folder atomically; returns its path. Raises as `runtime.folder.write_folder` does.

    `spec` is what the student was built from; `document` adds to student.json (teacher, measurements, tokenizer).
    """
    return write_folder(folder, spec, weights=weights_of(student), tokenizer_json=tokenizer_json, document=document)


def load_student(folder: str | Path, *, device: torch.device = CPU) -> Student:
    """The student of a folder on the device, in evaluation mode. Raises as `runtime.folder.read_folder` does."""
    read = read_folder(folder)
    return student_from_weights(read.spec, read.weights, device=device)
