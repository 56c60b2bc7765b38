# SPDX-License-Identifier: Apache-2.0
"""The study file: specs, parsing, validation and reference documentation."""

from spaces.combinations import count_structures
from spaces.feasibility import impossible_points
from spaces.fields import format_duration, parse_duration, require_name
from spaces.study.file import parse_study
from spaces.study.load import describe, load_study, preset_names
from spaces.study.spec import (
    CorpusSpec,
    Device,
    GraduationSpec,
    SearchSpec,
    SourceKind,
    SourceSpec,
    StudySpec,
    TeacherSpec,
    with_overrides,
)
from spaces.study.yaml import Problem, StudyError

__all__ = [
    "CorpusSpec",
    "Device",
    "GraduationSpec",
    "Problem",
    "SearchSpec",
    "SourceKind",
    "SourceSpec",
    "StudyError",
    "StudySpec",
    "TeacherSpec",
    "count_structures",
    "describe",
    "format_duration",
    "impossible_points",
    "load_study",
    "parse_duration",
    "parse_study",
    "preset_names",
    "require_name",
    "with_overrides",
]
