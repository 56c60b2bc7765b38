# SPDX-License-Identifier: Apache-2.0
"""Decoding: what a point says is what the student has, what it leaves out is the teacher's."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from spaces.combinations import candidates, combinations
from spaces.dimensions import DIMENSIONS
from spaces.domain import Choice, Domain, Integer, Real, Value
from spaces.feasibility import impossible_points
from spaces.recipe import LOSSES, RecipeSpec
from spaces.space import Space
from spaces.student import (
    Activation,
    Dense,
    EncoderSpec,
    Pooling,
    Projection,
    StaticSpec,
    StudentSpec,
    Switch,
)

TEACHER = StudentSpec(
    vocabulary_size=500,
    output_dim=96,
    encoder=EncoderSpec(
        n_layers=6,
        width=96,
        n_heads=12,
        head_width=8,
        feed_forward=Dense(units=192),
        max_tokens=64,
        pooling=Pooling.CLS,
        activation=Activation.RELU,
        layer_norm_epsilon=1e-5,
    ),
    normalise=False,
)
DOMAINS: dict[str, st.SearchStrategy[Domain]] = {
    "n_layers": st.sampled_from([Integer(0, 3), Integer(1, 4), Choice((2, 4)), Choice((0,))]),
    "width": st.sampled_from([Choice((96,)), Choice((48, 96)), Choice((32, 64)), Integer(12, 48, step=12)]),
    "n_heads": st.sampled_from([Choice((1, 2, 4)), Choice((3, 12)), Integer(1, 3)]),
    "head_width": st.sampled_from([Choice((4, 8)), Choice((16,))]),
    "feed_forward": st.sampled_from([Choice(("dense", "switch")), Choice(("switch",)), Choice(("dense",))]),
    "units": st.sampled_from([Choice((32, 64)), Choice((20,))]),
    "n_experts": st.just(Integer(2, 4)),
    "expert_units": st.sampled_from([Choice((16, 32)), Choice((20,))]),
    "capacity_factor": st.just(Real(1.0, 2.0)),
    "sparsity": st.sampled_from([Choice((0.0, 0.5)), Real(0.0, 0.9)]),
    "embedding_dim": st.sampled_from([Choice((None, 8)), Choice((40,))]),
    "pooling": st.just(Choice(("mean", "cls"))),
    "static_path": st.sampled_from([Choice((True, False)), Choice((True,))]),
    "static_embedding_dim": st.just(Choice((None, 16))),
    "cosine": st.just(Real(0.5, 1.0)),
    "query_key": st.sampled_from([Choice((0.0, 1.0)), Choice((0.5,))]),
    "hidden": st.just(Choice((0.0, 1.0))),
    "similarity": st.just(Choice((0.0, 0.5))),
    "temperature": st.just(Real(0.01, 1.0, log=True)),
    "n_relation_heads": st.sampled_from([Choice((4, 12)), Choice((5,))]),
    "learning_rate": st.just(Real(1e-4, 1e-3, log=True)),
    "batch_tokens": st.just(Choice((256, 512))),
    "precision": st.just(Choice(("bfloat16", "float32"))),
}


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    names = draw(st.sets(st.sampled_from(sorted(DOMAINS)), min_size=1))
    domains = {name: draw(DOMAINS[name]) for name in sorted(names)}
    fixed: dict[str, Value] = {}
    for name in draw(st.sets(st.sampled_from(sorted(names)), max_size=2)):
        fixed[name] = next(iter(candidates(domains.pop(name))))
    return Space(domains=domains, fixed=fixed)


@st.composite
def points(draw: st.DrawFn, space: Space) -> dict[str, Value]:
    """A point as a sampler makes it: every active dimension, parents first."""
    point: dict[str, Value] = {}
    for name in space.names:
        if space.active(point, name):
            match space.domains[name]:
                case Choice(options=options):
                    point[name] = draw(st.sampled_from(options))
                case Integer() as domain:
                    point[name] = draw(st.sampled_from(domain.values()))
                case Real(low=low, high=high):
                    point[name] = draw(st.floats(low, high))
    return point


@given(data=st.data(), space=spaces())
def test_a_decoded_student_has_what_its_point_says(data: st.DataObject, space: Space) -> None:
    point = data.draw(points(space))
    try:
        student, recipe = space.decode(point, TEACHER)
    except ValueError:
        assume(False)
    said = space.complete(point)
    has: dict[str, Any] = {"n_layers": student.n_layers, "static_path": student.static is not None}
    has |= {name: getattr(recipe, name) for name in said if hasattr(recipe, name)}
    has |= {name: getattr(recipe.losses, name) for name in LOSSES}
    if student.static is not None:
        has["static_embedding_dim"] = student.static.embedding_dim
    if student.encoder is not None:
        has |= {part.name: getattr(student.encoder, part.name) for part in fields(EncoderSpec)}
        match student.encoder.feed_forward:
            case Dense(units=units):
                has |= {"feed_forward": "dense", "units": units}
            case Switch(n_experts=n_experts, units=units, capacity_factor=capacity_factor):
                has |= {"feed_forward": "switch", "n_experts": n_experts, "expert_units": units}
                has["capacity_factor"] = capacity_factor
    assert {name: has[name] for name in said} == said


@given(data=st.data(), space=spaces())
def test_a_space_without_impossible_points_decodes_everywhere(data: st.DataObject, space: Space) -> None:
    assume(not impossible_points(space, teacher=TEACHER))
    student, _ = space.decode(data.draw(points(space)), TEACHER)
    assert (student.vocabulary_size, student.output_dim, student.normalise) == (500, 96, False)


@given(space=spaces())
def test_every_impossible_point_is_refused_by_decode(space: Space) -> None:
    for impossible in impossible_points(space, teacher=TEACHER):
        if impossible.values.get("static_path") is False:
            continue  # decode forces the static path on; the file must not contradict it
        names = {name for name in impossible.values if name in space.domains}
        assert any(
            is_refused(space, values)
            for values in combinations(space, {*impossible.values, "width", "n_heads", "n_layers"})
            if all(name in values and values[name] == impossible.values[name] for name in names)
        )


def is_refused(space: Space, point: dict[str, Value]) -> bool:
    try:
        space.decode(point, TEACHER)
    except ValueError:
        return True
    return False


@given(data=st.data(), space=spaces())
def test_inactive_entries_change_nothing(data: st.DataObject, space: Space) -> None:
    point = data.draw(points(space))
    extended = dict(point)
    for name in space.names:
        if name not in point:
            extended[name] = next(iter(candidates(space.domains[name])))
    assert space.complete(extended) == space.complete(point)


@given(data=st.data(), space=spaces())
def test_sampled_points_break_no_rule_of_their_space(data: st.DataObject, space: Space) -> None:
    point = data.draw(points(space))
    assert space.breaches(point) == []
    assert all(name in DIMENSIONS for name in space.names)


@given(space=spaces())
def test_names_come_after_what_decides_them(space: Space) -> None:
    names = list(space.names)
    for name in names:
        assert all(names.index(parent) < names.index(name) for parent in space.parents(name) if parent in names)


def test_an_empty_point_is_the_teacher_with_the_default_recipe() -> None:
    assert Space(domains={"n_layers": Integer(0, 6)}).decode({}, TEACHER) == (TEACHER, RecipeSpec())


def test_depth_0_is_the_static_path_alone() -> None:
    space = Space(domains={"n_layers": Integer(0, 6), "static_path": Choice((True, False))})
    student, _ = space.decode({"n_layers": 0}, TEACHER)
    assert student == StudentSpec(vocabulary_size=500, output_dim=96, static=StaticSpec(), normalise=False)
    assert not space.active({"n_layers": 0}, "static_path")
    assert space.active({"n_layers": 1}, "static_path")


@pytest.mark.parametrize(
    ("width", "n_heads", "head_width", "projection"),
    [
        (96, 12, 8, None),  # the teacher's
        (48, 12, 4, Projection.LINEAR),  # its heads divide, but narrower
        (64, 8, 8, Projection.LINEAR),  # the largest smaller head count that divides
        (7, 7, 1, Projection.LINEAR),
    ],
)
def test_what_depends_on_the_width_follows_it(
    width: int, n_heads: int, head_width: int, projection: Projection | None
) -> None:
    student, _ = Space(domains={}, fixed={"width": width}).decode({}, TEACHER)
    assert student.encoder is not None
    found = (student.encoder.n_heads, student.encoder.head_width, student.encoder.projection)
    assert found == (n_heads, head_width, projection)


def test_a_projection_of_the_teacher_stays_only_at_its_width() -> None:
    assert TEACHER.encoder is not None
    projected = StudentSpec.from_json(
        TEACHER.to_json() | {"output_dim": 40, "encoder": TEACHER.to_json()["encoder"] | {"projection": "tanh"}}
    )
    space = Space(domains={"width": Choice((48, 96))})
    at_width, narrower = (space.decode({"width": width}, projected)[0].encoder for width in (96, 48))
    assert at_width is not None and at_width.projection is Projection.TANH
    assert narrower is not None and narrower.projection is Projection.LINEAR


@pytest.mark.parametrize(
    ("active", "inactive", "name"),
    [
        ({"feed_forward": "dense"}, {"feed_forward": "switch"}, "units"),
        ({"feed_forward": "switch"}, {"feed_forward": "dense"}, "n_experts"),
        ({"static_path": True}, {"static_path": False}, "static_embedding_dim"),
        ({"n_layers": 0}, {"n_layers": 1}, "static_embedding_dim"),
        ({"n_layers": 1}, {"n_layers": 0}, "width"),
        ({"similarity": 0.1}, {"similarity": 0.0}, "temperature"),
        ({"value_value": 0.1}, {"query_key": 0.0}, "n_relation_heads"),
        ({"sparsity": 0.1}, {"sparsity": 0.0}, "pruning_tokens"),
        ({"n_layers": 1}, {"n_layers": 0}, "learning_rate"),
        ({"n_layers": 1}, {"n_layers": 0}, "relative_learning_rate"),
    ],
)
def test_a_dimension_is_active_only_where_it_matters(
    active: dict[str, Value], inactive: dict[str, Value], name: str
) -> None:
    space = Space(domains={"n_layers": Integer(0, 3)})
    assert space.active(active, name)
    assert not space.active(inactive, name)


def test_explicit_conditions_hold_together_with_implicit_ones() -> None:
    space = Space(
        domains={"n_layers": Integer(0, 6), "width": Choice((48, 96)), "sparsity": Choice((0.0, 0.5))},
        conditions={"sparsity": {"width": Choice((96,)), "n_layers": Integer(4, 6)}},
    )
    assert space.active({"n_layers": 5, "width": 96}, "sparsity")
    assert not space.active({"n_layers": 5, "width": 48}, "sparsity")
    assert not space.active({"n_layers": 3, "width": 96}, "sparsity")
    assert not space.active({"n_layers": 5}, "sparsity")
    assert space.names.index("width") < space.names.index("sparsity")
    student, _ = space.decode({"n_layers": 3, "width": 96, "sparsity": 0.5}, TEACHER)
    assert student.encoder is not None and student.encoder.sparsity == 0.0


@pytest.mark.parametrize(
    ("space", "rule"),
    [
        ({"domains": {"depth": Integer(0, 3)}}, "'depth' is not a dimension"),
        ({"domains": {"n_layers": Integer(0, 3)}, "fixed": {"n_layers": 3}}, "searched or fixed"),
        ({"domains": {"n_layers": Real(0, 3)}}, "n_layers must be an integer"),
        ({"domains": {"pooling": Choice(("max",))}}, "mean or cls"),
        (
            {"domains": {"relative_learning_rate": Real(1e-3, 1e-2)}, "fixed": {"learning_rate": 1e-3}},
            "absolute or relative, got learning_rate and relative_learning_rate; keep one",
        ),
        ({"domains": {}, "fixed": {"sparsity": 1.0}}, "at most 0.95"),
        ({"domains": {"units": Choice((8,))}, "conditions": {"units": {"width": Choice((8,))}}}, "add it to the space"),
        (
            {
                "domains": {"units": Choice((8, 16)), "width": Choice((8, 16))},
                "conditions": {"units": {"width": Choice((8,))}, "width": {"units": Choice((8,))}},
            },
            "in a circle",
        ),
    ],
)
def test_impossible_spaces_are_refused(space: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Space(**space)


@pytest.mark.parametrize(
    ("point", "rule"),
    [
        ({"n_heads": 5}, "n_heads must divide the width"),
        ({"hidden": 1.0, "width": 48}, "when: {width: 96}"),
        ({"query_key": 1.0, "n_relation_heads": 5}, "n_relation_heads must divide"),
        ({"feed_forward": "switch"}, "needs n_experts"),
        ({"cosine": 0.0}, "at least one loss weight"),
        ({"sparsity": 0.5, "units": 20}, "block sparsity needs"),
        ({"colour": 1}, "'colour' is not a dimension"),
    ],
)
def test_points_that_cannot_be_built_are_refused(point: dict[str, Value], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Space(domains={"n_layers": Integer(0, 6)}).decode(point, TEACHER)


def test_a_teacher_makes_more_points_impossible_than_the_file_alone() -> None:
    space = Space(domains={"n_heads": Choice((5, 6)), "hidden": Choice((0.0, 1.0))}, fixed={"query_key": 1.0})
    assert impossible_points(space) == ()
    assert [dict(point.values) for point in impossible_points(space, teacher=TEACHER)] == [
        {"width": 96, "n_heads": 5},
        {"n_relation_heads": 12, "n_heads": 5, "head_width": 8},
    ]
    narrow = Space(domains={"hidden": Choice((0.0, 1.0))}, fixed={"width": 48, "n_relation_heads": 9, "query_key": 1.0})
    rules = {point.rule for point in impossible_points(narrow, teacher=TEACHER)}
    assert any("hidden loss" in rule for rule in rules) and any("teacher's attention" in rule for rule in rules)


def test_a_static_teacher_has_static_students_only() -> None:
    static = StudentSpec(vocabulary_size=9, output_dim=4, static=StaticSpec(embedding_dim=2))
    assert Space(domains={}).decode({}, static) == (static, RecipeSpec())
    layers = Space(domains={"n_layers": Integer(0, 2)})
    with pytest.raises(ValueError, match="no layers to inherit"):
        layers.decode({"n_layers": 1}, static)
    assert [point.values for point in impossible_points(layers, teacher=static)] == [{"n_layers": 1}]


def test_a_switch_teacher_lends_its_experts() -> None:
    assert TEACHER.encoder is not None
    encoder = replace(TEACHER.encoder, feed_forward=Switch(n_experts=3, units=8, capacity_factor=2.0))
    teacher = replace(TEACHER, encoder=encoder)
    student, _ = Space(domains={}, fixed={"n_layers": 2}).decode({}, teacher)
    assert student.encoder is not None and student.encoder.feed_forward == encoder.feed_forward
    assert impossible_points(Space(domains={}, fixed={"feed_forward": "switch"}), teacher=teacher) == ()


def test_the_properties_above_draw_every_structural_dimension() -> None:
    assert {name for name, dimension in DIMENSIONS.items() if dimension.structural} <= set(DOMAINS)


def test_every_dimension_is_a_field_of_a_spec_and_every_recipe_field_a_dimension() -> None:
    recipe = {part.name for part in fields(RecipeSpec)} - {"losses"} | set(LOSSES)
    assert {name for name, dimension in DIMENSIONS.items() if not dimension.structural} == recipe
