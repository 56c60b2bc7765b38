# SPDX-License-Identifier: Apache-2.0
"""References as students: their names, and their folders in a study's folder.

    STUDY/references/teacher/                  the teacher as a student folder
    STUDY/references/static-table/             the trained static table as a student folder
    STUDY/references/teacher-first-2-layers/   without weights, which are cut from the teacher's when they are needed

Every reference but one is a student: `teacher` is the baseline, measured in PyTorch. On a runtime that rounds (the
engine) the teacher is a student as well, `teacher-on-engine`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import save_file

from runtime.atomic import atomic_path, read_json
from runtime.folder import DOCUMENT_FILE, WEIGHTS_FILE, expected_tensors
from spaces.errors import UserError
from spaces.profile import Runtime
from spaces.student import StudentSpec

TEACHER = "teacher"
STATIC_TABLE = "static-table"

_NAME = re.compile(rf"{TEACHER}(-on-({'|'.join(Runtime)})|-first-\d+-layers?)?|{STATIC_TABLE}")


def teacher_name_on(runtime: str) -> str:
    """The name of the reference that is the teacher on an inexact runtime."""
    return f"{TEACHER}-on-{runtime}"


def first_layers_name(n_layers: int) -> str:
    """The name of the reference that is the teacher cut to its first layers."""
    return f"{TEACHER}-first-{n_layers}-layer{'s' if n_layers > 1 else ''}"


def is_first_layers(name: str) -> bool:
    """Whether a reference is the teacher cut to its first layers."""
    return name.startswith(f"{TEACHER}-first-")


def is_reference(name: str) -> bool:
    """Whether a study may have a reference of this name; no student and no alias of a user's has it."""
    return _NAME.fullmatch(name) is not None


def require_student(name: str, *, others: Sequence[str] = ()) -> None:
    """Raises ValueError for the one reference that is not a student; `others` are the names of those that are."""
    if name == TEACHER:
        on_runtime = next((other for other in others if other.startswith(f"{TEACHER}-on-")), None)
        remedy = (
            f"choose {on_runtime}, the teacher as a student" if on_runtime else "load it with sentence-transformers"
        )
        raise UserError(f"the reference {TEACHER} is the baseline, measured in PyTorch, and no student: {remedy}")


def reference_folder(study_folder: Path, name: str) -> Path:
    """The folder of a reference in the study's folder; it need not exist."""
    return study_folder / "references" / (TEACHER if name.startswith(f"{TEACHER}-on-") else name)


def reference_student(study_folder: Path, name: str) -> Path | None:
    """The student folder of a reference, with its weights; None if the study has not written it."""
    folder, teacher = (reference_folder(study_folder, each) for each in (name, TEACHER))
    document = read_json(folder / DOCUMENT_FILE)
    if document is None:
        return None
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        tensors = expected_tensors(StudentSpec.from_json(document["spec"]))
        with atomic_path(weights, durable=False) as temporary, safe_open(teacher / WEIGHTS_FILE, "numpy") as file:
            save_file({tensor: file.get_tensor(tensor) for tensor in tensors}, temporary, metadata={"format": "pt"})
    return folder
