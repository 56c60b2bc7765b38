# SPDX-License-Identifier: Apache-2.0
"""Counting against brute force, and conditions that can or cannot hold."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.combinations import candidates, conditions_meet, count_structures, inert_dimensions
from spaces.domain import Choice, Domain, Integer, Real, Value
from spaces.space import Space

FINITE: dict[str, st.SearchStrategy[Domain]] = {
    "n_layers": st.sampled_from([Integer(0, 3), Choice((0, 2)), Integer(1, 2)]),
    "width": st.just(Choice((32, 64))),
    "feed_forward": st.just(Choice(("dense", "switch"))),
    "units": st.just(Choice((16, 32, 48))),
    "n_experts": st.just(Integer(2, 4)),
    "static_path": st.just(Choice((True, False))),
    "static_embedding_dim": st.just(Choice((None, 8))),
    "similarity": st.just(Real(0, 1)),
}


@given(data=st.data(), names=st.sets(st.sampled_from(sorted(FINITE)), min_size=1), conditional=st.booleans())
def test_structures_are_counted_as_by_brute_force(data: st.DataObject, names: set[str], conditional: bool) -> None:
    domains = {name: data.draw(FINITE[name]) for name in sorted(names)}
    conditions = {"units": {"width": Choice((64,))}} if conditional and {"units", "width"} <= names else {}
    space = Space(domains=domains, conditions=conditions)
    finite = [name for name in domains if name != "similarity"]
    students = set()
    for values in itertools.product(*(candidates(domains[name]) for name in finite)):
        point: dict[str, Value] = dict(zip(finite, values, strict=True))
        students.add(tuple(sorted((name, str(value)) for name, value in space.complete(point).items())))
    assert count_structures(space) == len(students)


def test_a_real_size_makes_structures_countless() -> None:
    assert count_structures(Space(domains={"sparsity": Real(0.1, 0.5)})) is None
    assert count_structures(Space(domains={"sparsity": Real(0.5, 0.5)})) == 1


def test_huge_spaces_are_counted_at_once() -> None:
    sizes = Space(domains={name: Integer(1, 60_000) for name in ("width", "units", "embedding_dim", "head_width")})
    assert count_structures(sizes) == 60_000**4


def test_dimensions_that_never_matter_are_found() -> None:
    space = Space(
        domains={"n_experts": Integer(2, 4), "temperature": Real(0.1, 1), "units": Choice((8, 16))},
        fixed={"similarity": 0.0},
    )
    assert {name for name, _ in inert_dimensions(space)} == {"n_experts", "temperature"}


@pytest.mark.parametrize(
    ("domain", "condition", "expected"),
    [
        (Choice((1, 2)), Choice((2, 3)), True),
        (Choice((1, 2)), Choice((3,)), False),
        (Integer(0, 4, step=2), Choice((3,)), False),
        (Integer(0, 4, step=2), Integer(3, 3), False),
        (Integer(0, 4, step=2), Integer(3, 4), True),
        (Real(0, 0.5), Real(0.5, 1), True),
        (Real(0, 0.4), Real(0.5, 1), False),
        (Choice((0.0, 0.5)), Real(0.1, 1), True),
        (Real(0, 0.5), Choice((0.2,)), True),
    ],
)
def test_conditions_meet_when_a_value_is_common(domain: Domain, condition: Domain, expected: bool) -> None:
    assert conditions_meet(domain, condition) is expected
