# SPDX-License-Identifier: Apache-2.0
"""Claims about the tags of a model version, without MLflow."""

from __future__ import annotations

import pytest

from search.records.front import MeasuredStudent
from search.tracking.names import fidelity_tag
from search.tracking.version_tags import student_from_tags, tags_of
from spaces.profile import LatencyProfile
from tests.search.tiny_records import fidelity, spec_of

STUDENT = MeasuredStudent.measured(
    "trial-0001",
    spec_of(2),
    latency_ms=2.0,
    latency_interval_ms=(1.9, 2.1),
    teacher_latency_ms=8.0,
    fidelity=fidelity(0.9),
)
TAGS = tags_of(STUDENT, teacher="teacher", profile=LatencyProfile())


def test_a_student_read_from_its_tags_is_the_student_that_they_were_written_from() -> None:
    read = student_from_tags(TAGS, name="study", version="3", aliases=("fastest",))
    assert read == STUDENT.changed(version="3", aliases=("fastest",), uri="models:/study/3")


def test_tags_that_this_version_does_not_know_are_ignored() -> None:
    more = {**TAGS, fidelity_tag("overlap_at_100"): "0.5", "reviewed_by": "a person"}
    assert student_from_tags(more, name="study", version="3", aliases=()).fidelity == STUDENT.fidelity


@pytest.mark.parametrize(
    ("tag", "said"), [("spearman", "needs spearman"), ("cosine", "needs cosine")], ids=["spearman", "cosine"]
)
def test_a_measurement_without_its_tag_is_named_with_the_remedy(tag: str, said: str) -> None:
    less = {name: value for name, value in TAGS.items() if name != fidelity_tag(tag)}
    with pytest.raises(ValueError, match=f"{said}.*delete the version in the MLflow UI"):
        student_from_tags(less, name="study", version="3", aliases=())
