# SPDX-License-Identifier: Apache-2.0
"""Writes the references of a study as student folders, so that they are selected, exported and served like students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.atomic import write_json, write_text
from runtime.folder import DOCUMENT_FILE, FORMAT, TOKENIZER_FILE, WEIGHTS_FILE, write_folder
from search.records.front import Front, MeasuredStudent
from search.storage.reference_students import (
    STATIC_TABLE,
    TEACHER,
    is_first_layers,
    reference_folder,
    reference_student,
)
from search.study.measure import write_measurements
from search.study.prepare import Prepared
from spaces.profile import LatencyProfile
from spaces.student import StudentSpec


def write_reference_students(
    prepared: Prepared,
    references: Sequence[MeasuredStudent],
    *,
    profile: LatencyProfile,
    folder: Path,
    document: Mapping[str, Any],
) -> None:
    """Writes the folders that `search.storage.reference_students` names into the study's folder.

    `document` is added to every student.json, as to those of the students; so are the measurements. The teacher's
    weights, which never change in a study, are written once.
    """
    teacher, table = prepared.teacher, prepared.inheritance.static_table
    assert table is not None
    weights = {TEACHER: teacher.weights, STATIC_TABLE: {"static.tokens": table}}
    for path, entry in {reference_folder(folder, entry.name): entry for entry in references}.items():
        spec, whole = StudentSpec.from_json(dict(entry.spec)), {**document, "trial": entry.name}
        if path.name in weights and not (path.name == TEACHER and (path / WEIGHTS_FILE).is_file()):
            tokenizer_json = teacher.tokenizer_json
            write_folder(path, spec, weights=weights[path.name], tokenizer_json=tokenizer_json, document=whole)
        else:
            whole |= {"format": FORMAT, "spec": spec.to_json()}
            write_json(path / DOCUMENT_FILE, whole, durable=False)
            write_text(path / TOKENIZER_FILE, teacher.tokenizer_json, durable=False)
        write_measurements(path, entry, profile)


def registered_folders(front: Front, folder: Path) -> dict[str, Path]:
    """Folders by name of the references that are registered with a front: students that nothing on it dominates.

    The teacher's first layers are left out: each is another copy of the teacher's token table, and
    `select --student` registers the one that is wanted.
    """
    kept = [entry.name for entry in front.competing_references() if not is_first_layers(entry.name)]
    found = ((name, reference_student(folder, name)) for name in kept)
    return {name: path for name, path in found if path is not None}
