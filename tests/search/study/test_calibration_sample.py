# SPDX-License-Identifier: Apache-2.0
"""Claims about the architectures that a calibration measures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.study.calibration_sample import draw_point, sample_architectures
from spaces.domain import Choice, Integer, Real
from spaces.space import Space
from spaces.student import Dense, EncoderSpec, StudentSpec
from spaces.study import CorpusSpec, GraduationSpec, SearchSpec, SourceSpec, StudySpec, TeacherSpec

TEACHER = StudentSpec(
    vocabulary_size=50,
    output_dim=48,
    encoder=EncoderSpec(n_layers=6, width=48, n_heads=4, head_width=12, feed_forward=Dense(units=96), max_tokens=64),
)
SPACE = Space(
    domains={
        "n_layers": Integer(0, 5),
        "n_heads": Choice((2, 4, 5)),  # 5 heads cannot be built
        "units": Integer(1, 96, log=True),
        "static_path": Choice((True, False)),
        "learning_rate": Real(1e-4, 1e-2, log=True),
    }
)
STUDY = StudySpec(
    name="study",
    teachers=(TeacherSpec(source="somewhere"),),
    corpus=CorpusSpec(sources=(SourceSpec(source="installed-docs"),)),
    space=SPACE,
    search=SearchSpec(rungs=(100,), n_trials=1),
    graduation=GraduationSpec(n_tokens=100),
    initial_points=({"n_layers": 5, "n_heads": 4, "units": 96, "static_path": True},),
)


@given(st.integers(0, 2**32 - 1))
def test_drawn_points_lie_in_the_space_and_hold_what_is_active(seed: int) -> None:
    point = draw_point(SPACE, np.random.default_rng(seed))
    assert SPACE.breaches(point) == []
    active = {name for name in SPACE.names if SPACE.active(point, name)}
    assert set(point) == active


@pytest.mark.parametrize("n", [1, 5, 20, 36])
def test_architectures_differ_and_can_be_built_and_hold_the_initial_points(n: int) -> None:
    specs = sample_architectures(STUDY, TEACHER, n=n)
    assert len(specs) == len(set(specs)) == n
    assert specs[0] == SPACE.decode(STUDY.initial_points[0], TEACHER)[0]
    if n >= 20:
        assert {spec.n_layers for spec in specs} == {0, 1, 2, 3, 4, 5}
    assert sample_architectures(STUDY, TEACHER, n=n) == specs


def test_a_small_space_is_anchored_by_the_static_student_and_the_teachers_cuts() -> None:
    small = replace(STUDY, space=Space(domains={"n_layers": Choice((3,))}), initial_points=())
    assert sorted(spec.n_layers for spec in sample_architectures(small, TEACHER)) == [0, 1, 3, 5]
