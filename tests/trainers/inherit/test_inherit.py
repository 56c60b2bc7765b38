# SPDX-License-Identifier: Apache-2.0
"""What is not cut is inherited exactly; what is cut starts closer to the teacher than without its refit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from spaces.student import Dense, Projection, StaticSpec, StudentSpec, Switch
from tests.trainers.tiny import ENCODER, SPEC, encoder_with, inheritance, teacher, text
from trainers.inherit.inherit import STATIC_SIZE, inherit
from trainers.inherit.least_squares import fit_gain, refit
from trainers.inherit.reduce import divide_tokens, factorise, principal_directions, shrink_heads
from trainers.modules.build import build
from trainers.modules.device import CPU
from trainers.modules.embed import embed_tokens

HELD_OUT = text(60, seed=9)
TEACHER = embed_tokens(teacher().student(), *HELD_OUT)


def cosine(student: torch.nn.Module) -> float:
    return float((embed_tokens(student, *HELD_OUT) * TEACHER).sum(axis=1).mean())


def test_a_student_of_the_teachers_shape_is_the_teacher() -> None:
    student = inherit(inheritance(), SPEC, seed=0, device=CPU)
    np.testing.assert_allclose(embed_tokens(student, *HELD_OUT), TEACHER, atol=1e-5)


@pytest.mark.parametrize(
    "spec",
    [
        encoder_with(n_layers=2),
        encoder_with(n_heads=2, head_width=8),
        encoder_with(head_width=4),
        encoder_with(feed_forward=Dense(units=24)),
        encoder_with(feed_forward=Dense(units=96)),
        encoder_with(feed_forward=Switch(n_experts=2, units=32)),
        encoder_with(embedding_dim=16),
        replace(encoder_with(width=16, n_heads=2, projection=Projection.LINEAR)),
        encoder_with(n_layers=1),
    ],
    ids=["layers", "heads", "head width", "units", "more units", "switch", "embedding", "width", "one layer"],
)
def test_an_inherited_student_starts_closer_than_a_random_one(spec: StudentSpec) -> None:
    assert cosine(inherit(inheritance(), spec, seed=0, device=CPU)) > cosine(build(spec, seed=0)) + 0.1


def test_refitting_beats_cutting_alone() -> None:
    inherited = inheritance()
    chosen = inherited.layers[2]
    cut = teacher().student()
    cut.layers = torch.nn.ModuleList(cut.layers[i] for i in chosen)
    assert cosine(inherit(inherited, encoder_with(n_layers=2), seed=0, device=CPU)) > cosine(cut)


def log_ratio(student: torch.nn.Module) -> float:
    """Mean logarithm of the student's length to that of the teacher without normalisation."""
    vectors, target = (embed_tokens(s, *HELD_OUT) for s in (student, teacher(normalise=False).student()))
    return float(np.log(np.linalg.norm(vectors, axis=1) / np.linalg.norm(target, axis=1)).mean())


@pytest.mark.parametrize(
    "spec",
    [
        encoder_with(n_layers=1),
        encoder_with(width=16, n_heads=2, projection=Projection.LINEAR),
        replace(encoder_with(n_layers=2), static=StaticSpec()),
        StudentSpec(vocabulary_size=60, output_dim=32, static=StaticSpec()),
        StudentSpec(vocabulary_size=60, output_dim=32, static=StaticSpec(embedding_dim=8)),
    ],
    ids=["one layer", "narrow", "both", "static", "factorised"],
)
def test_a_student_begins_with_its_teachers_length(spec: StudentSpec) -> None:
    table = np.random.default_rng(0).standard_normal((60, 32)).astype(np.float32) * 9
    student = inherit(inheritance(table, normalise=False), replace(spec, normalise=False), seed=0, device=CPU)
    assert abs(log_ratio(student)) < 0.1


def test_a_student_of_several_teachers_begins_with_the_length_of_their_mean() -> None:
    inherited = inheritance(normalise=False)
    targets = inherited.calibration_targets / np.linalg.norm(inherited.calibration_targets, axis=1, keepdims=True)
    spec = replace(encoder_with(n_layers=1), normalise=False)
    student = inherit(replace(inherited, calibration_targets=targets), spec, seed=0, device=CPU)
    assert np.linalg.norm(embed_tokens(student, *HELD_OUT), axis=1).mean() == pytest.approx(1.0, abs=0.1)


def test_an_unnormalised_teachers_own_shape_is_the_teacher() -> None:
    student = inherit(inheritance(normalise=False), replace(SPEC, normalise=False), seed=0, device=CPU)
    right = embed_tokens(teacher(normalise=False).student(), *HELD_OUT)
    np.testing.assert_allclose(embed_tokens(student, *HELD_OUT), right, atol=1e-4)


@pytest.mark.parametrize("projection", [None, Projection.LINEAR])
def test_a_long_static_table_and_its_encoder_are_shortened_together(projection: Projection | None) -> None:
    table = np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32)
    spec = replace(encoder_with(n_layers=1, projection=projection), static=StaticSpec())
    short = inherit(inheritance(table * 1e-4), spec, seed=0, device=CPU)
    long = inherit(inheritance(table * 1e4), spec, seed=0, device=CPU)
    np.testing.assert_allclose(embed_tokens(short, *HELD_OUT), embed_tokens(long, *HELD_OUT), atol=1e-4)
    for student in (short, long):
        assert student.static is not None
        assert student.static.tokens.square().mean().sqrt() <= STATIC_SIZE * 1.001


def test_a_useless_static_path_does_not_hurt_and_the_given_one_is_kept() -> None:
    table = np.random.default_rng(0).standard_normal((60, 32)).astype(np.float32)
    both = inherit(inheritance(table), replace(encoder_with(n_layers=2), static=StaticSpec()), seed=0, device=CPU)
    assert cosine(both) > cosine(inherit(inheritance(), encoder_with(n_layers=2), seed=0, device=CPU)) - 0.02
    static = StudentSpec(vocabulary_size=60, output_dim=32, static=StaticSpec())
    alone = inherit(inheritance(table), static, seed=0, device=CPU)
    assert alone.static is not None
    np.testing.assert_array_equal(alone.static.tokens.detach().numpy(), table)


@pytest.mark.parametrize("changes", [{"n_layers": 4}, {"width": 64}, {"n_heads": 8, "head_width": 4}])
def test_a_student_larger_than_its_teacher_is_refused(changes: dict[str, int]) -> None:
    spec = replace(SPEC, encoder=replace(ENCODER, projection=Projection.LINEAR, **changes))
    with pytest.raises(ValueError, match="cannot exceed"):
        inherit(inheritance(), spec, seed=0, device=CPU)


def test_ridge_regression_without_ridge_is_least_squares() -> None:
    inputs, targets = torch.randn(50, 6).double(), torch.randn(50, 3).double()
    linear = torch.nn.Linear(6, 3).double()
    with torch.no_grad():
        refit(linear, inputs, targets, ridge=0.0)
    design = torch.cat([inputs, torch.ones(50, 1)], dim=1).double()
    solution = torch.linalg.lstsq(design, targets).solution
    torch.testing.assert_close(linear.weight.detach(), solution[:-1].T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(linear.bias.detach(), solution[-1], rtol=1e-4, atol=1e-5)


def test_fit_gain_recovers_a_layer_norm() -> None:
    inputs = torch.randn(200, 8)
    target_norm = torch.nn.LayerNorm(8)
    norm = torch.nn.LayerNorm(8)
    with torch.no_grad():
        target_norm.weight.normal_()
        target_norm.bias.normal_()
        fit_gain(norm, inputs, target_norm(inputs))
    torch.testing.assert_close(norm.weight, target_norm.weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(norm.bias, target_norm.bias, rtol=1e-3, atol=1e-3)


def test_wider_heads_compute_the_same_scores_and_values() -> None:
    attention = teacher().student().layers[0].attention
    x = torch.randn(2, 5, 32)
    expected = attention(x, None)[0]
    wide = build(encoder_with(n_heads=2, head_width=16), seed=0).layers[0].attention
    narrow = build(encoder_with(n_heads=2, head_width=8), seed=0).layers[0].attention
    heads = torch.tensor([1, 3])
    outputs = []
    with torch.no_grad():
        for student, width in ((wide, 16), (narrow, 8)):
            weight, bias, output = shrink_heads(attention, heads, width)
            student.qkv.weight.copy_(weight)
            student.qkv.bias.copy_(bias)
            student.output.weight.copy_(output)
            outputs.append(student(x, None)[0])
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(outputs[0], expected)


def test_principal_directions_and_factorisation_are_exact_for_low_rank_tables() -> None:
    table = torch.randn(40, 3) @ torch.randn(3, 10)
    rows, directions = factorise(table, torch.ones(40, dtype=torch.long), 3)
    torch.testing.assert_close(rows @ directions.T, table, rtol=1e-3, atol=1e-3)
    basis = principal_directions(table, 3)
    torch.testing.assert_close(basis.T @ basis, torch.eye(3), rtol=1e-4, atol=1e-4)


def test_k_means_finds_separated_directions_and_a_confident_router() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(8)[:3] * 10
    labels = torch.arange(300) % 3
    tokens = centres[labels] + 0.3 * torch.randn(300, 8, generator=generator)
    router, choice = divide_tokens(tokens, 3, seed=0)
    gates = torch.softmax(tokens @ router.T, dim=-1).max(dim=-1).values
    assert 0.6 < float(gates.median()) < 0.95
    assert all(len(set(choice[labels == label].tolist())) == 1 for label in range(3))
