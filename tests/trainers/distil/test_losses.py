# SPDX-License-Identifier: Apache-2.0
"""Each loss is 0 for a perfect student, matches its definition, and does not see padding."""

import math

import pytest
import torch
from torch.nn import functional

from trainers.distil.losses import cosine_loss, hidden_loss, length_loss, relation_loss, similarity_loss


def test_every_loss_is_zero_when_student_and_teacher_agree() -> None:
    vectors, states = torch.randn(4, 8), torch.randn(2, 5, 12)
    assert cosine_loss(vectors, 3.0 * vectors).item() == pytest.approx(0.0, abs=1e-6)
    assert similarity_loss(vectors, 3.0 * vectors, temperature=0.1).item() == pytest.approx(0.0, abs=1e-6)
    assert relation_loss((states, states), (states, states), None, n_heads=3).item() == pytest.approx(0.0, abs=1e-6)
    assert hidden_loss(states, states, None).item() == 0.0
    assert length_loss(vectors, -vectors).item() == pytest.approx(0.0, abs=1e-6)


def test_cosine_loss_of_opposite_vectors_is_two() -> None:
    vectors = torch.randn(4, 8)
    assert cosine_loss(-vectors, vectors).item() == pytest.approx(2.0)


def test_relation_loss_equals_a_loop_over_sentences_heads_and_tokens() -> None:
    queries, keys, teacher_queries, teacher_keys = torch.randn(4, 2, 5, 12).unbind()
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    n_heads, total, count = 2, 0.0, 0
    for b, length in enumerate((5, 3)):
        for h in range(n_heads):
            part = slice(h * 6, h * 6 + 6)
            student = (queries[b, :length, part] @ keys[b, :length, part].T / math.sqrt(6)).log_softmax(-1)
            teacher = (teacher_queries[b, :length, part] @ teacher_keys[b, :length, part].T / math.sqrt(6)).log_softmax(
                -1
            )
            total += functional.kl_div(student, teacher, log_target=True, reduction="sum").item()
            count += length
    loss = relation_loss((queries, keys), (teacher_queries, teacher_keys), mask, n_heads=n_heads)
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


def test_relation_loss_accepts_students_of_another_width_and_has_finite_gradients_beside_padding() -> None:
    student = torch.randn(2, 5, 6, requires_grad=True)
    teacher = torch.randn(2, 5, 12)
    mask = torch.tensor([[True] * 5, [True] + [False] * 4])
    relation_loss((student, student), (teacher, teacher), mask, n_heads=3).backward()
    assert student.grad is not None and student.grad.isfinite().all()


def test_relation_heads_must_divide_the_width() -> None:
    states = torch.randn(1, 3, 12)
    with pytest.raises(ValueError, match="5 heads, width 12"):
        relation_loss((states, states), (states, states), None, n_heads=5)


def test_similarity_loss_is_invariant_to_rotation_of_the_student() -> None:
    student, teacher = torch.randn(2, 6, 8).double()
    rotation = torch.linalg.qr(torch.randn(8, 8).double()).Q
    plain = similarity_loss(student, teacher, temperature=0.2)
    assert similarity_loss(student @ rotation, teacher, temperature=0.2).item() == pytest.approx(plain.item())
    assert plain.item() > 0.0


def test_hidden_loss_of_zeros_is_one_whatever_the_padding_holds() -> None:
    teacher = torch.randn(2, 4, 6)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    student = torch.zeros(2, 4, 6)
    student[1, 2:] = 1e6
    assert hidden_loss(student, teacher, mask).item() == pytest.approx(1.0)


@pytest.mark.parametrize(("ratio", "expected"), [(1.1, 0.5 * math.log(1.1) ** 2), (0.01, math.log(100) - 0.5)])
def test_length_loss_is_half_the_squared_log_ratio_and_linear_for_large_ones(ratio: float, expected: float) -> None:
    teacher = torch.randn(5, 8)
    turned = torch.linalg.qr(torch.randn(8, 8)).Q
    assert length_loss(ratio * teacher @ turned, teacher).item() == pytest.approx(expected, rel=1e-3)


def test_cosine_and_length_loss_are_half_the_relative_squared_distance_of_near_vectors() -> None:
    teacher = torch.randn(200, 16).double()
    student = teacher + 0.01 * torch.randn(200, 16).double()
    distance = ((student - teacher).square().sum(1) / teacher.square().sum(1) / 2).mean().item()
    assert (cosine_loss(student, teacher) + length_loss(student, teacher)).item() == pytest.approx(distance, rel=0.02)


def test_the_length_losss_gradient_is_along_the_vector_and_finite_at_zero() -> None:
    student, teacher = torch.randn(3, 8, requires_grad=True), torch.randn(3, 8)
    (gradient,) = torch.autograd.grad(length_loss(student, teacher), student)
    assert functional.cosine_similarity(gradient, student).abs().detach().numpy() == pytest.approx([1, 1, 1], abs=1e-5)
    zero = torch.zeros(2, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(length_loss(zero, teacher[:2]), zero)
    assert gradient.isfinite().all()
