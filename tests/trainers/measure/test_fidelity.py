# SPDX-License-Identifier: Apache-2.0
"""Fidelity against closed forms, brute force and SciPy."""

import json
import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.measure import fidelity as module
from trainers.measure.fidelity import Fidelity, measure_fidelity, rank_correlation


def vectors_of(seed: int, *, n: int = 40, dim: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32) + np.float32(0.5)


def noisy(vectors: np.ndarray, *, scale: float = 0.5, seed: int = 99) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(vectors.shape)
    return (vectors + scale * noise).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    wide = vectors.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def rotation(dim: int, *, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0].astype(np.float32)


def brute_force_overlap(student: np.ndarray, teacher: np.ndarray, k: int) -> float:
    shares = []
    for i in range(len(teacher)):
        found = []
        for vectors in (unit(student), unit(teacher)):
            similarity = {j: float(vectors[i] @ vectors[j]) for j in range(len(vectors)) if j != i}
            found.append(set(sorted(similarity, key=similarity.__getitem__, reverse=True)[:k]))
        shares.append(len(found[0] & found[1]) / len(found[1]))
    return float(np.mean(shares))


seeds = st.integers(0, 2**32 - 1)


@given(seeds)
def test_the_teacher_imitates_itself_perfectly(seed: int) -> None:
    teacher = vectors_of(seed)
    fidelity = measure_fidelity(teacher, teacher)
    perfect = {name: 1.0 for name in fidelity.to_json() if name != "constant_baseline"}
    for name, value in perfect.items():
        assert getattr(fidelity, name) == pytest.approx(value, abs=1e-6), name


@given(seeds, st.floats(0.01, 100.0))
def test_the_scale_of_a_students_vectors_does_not_matter(seed: int, scale: float) -> None:
    teacher = vectors_of(seed)
    student = noisy(teacher)
    assert_close(measure_fidelity(np.float32(scale) * student, teacher), measure_fidelity(student, teacher))


@settings(max_examples=30)
@given(seeds)
def test_rotating_both_changes_nothing(seed: int) -> None:
    teacher = vectors_of(seed)
    student, turn = noisy(teacher), rotation(6, seed=seed)
    assert_close(measure_fidelity(student @ turn, teacher @ turn), measure_fidelity(student, teacher))


@settings(max_examples=30)
@given(seeds)
def test_rotating_the_student_alone_keeps_what_only_pairs_decide(seed: int) -> None:
    teacher = vectors_of(seed)
    fidelity = measure_fidelity(teacher @ rotation(6, seed=seed), teacher)
    assert fidelity.spearman == pytest.approx(1.0, abs=1e-4)
    assert fidelity.overlap_at_1 >= 0.95  # float32 may swap two neighbours at equal distance
    assert fidelity.cosine < 0.999


@settings(max_examples=30)
@given(seeds, seeds)
def test_the_order_of_the_sentences_does_not_matter(seed: int, order_seed: int) -> None:
    teacher = vectors_of(seed)
    student, order = noisy(teacher), np.random.default_rng(order_seed).permutation(len(teacher))
    assert_close(measure_fidelity(student[order], teacher[order]), measure_fidelity(student, teacher))


def assert_close(a: Fidelity, b: Fidelity) -> None:
    for name, value in b.to_json().items():
        tolerance = 0.03 if name.startswith("overlap") else 2e-4  # rounding may swap two equidistant neighbours
        assert getattr(a, name) == pytest.approx(value, abs=tolerance), name


def test_every_field_equals_its_definition() -> None:
    teacher = vectors_of(1, n=60, dim=8)
    student = noisy(teacher)
    s, t = unit(student), unit(teacher)
    cosines = (s * t).sum(axis=1)
    mean = t.mean(axis=0)
    pairs = np.triu_indices(60, k=1)
    fidelity = measure_fidelity(student, teacher)
    assert fidelity.cosine == pytest.approx(cosines.mean(), abs=1e-6)
    assert fidelity.cosine_p5 == pytest.approx(np.percentile(cosines, 5), abs=1e-6)
    assert fidelity.cosine_centred == pytest.approx((unit(s - mean) * unit(t - mean)).sum(axis=1).mean(), abs=1e-6)
    assert fidelity.spearman == pytest.approx(scipy.stats.spearmanr((s @ s.T)[pairs], (t @ t.T)[pairs])[0], abs=1e-4)
    assert fidelity.overlap_at_1 == brute_force_overlap(student, teacher, 1)
    assert fidelity.overlap_at_10 == pytest.approx(brute_force_overlap(student, teacher, 10))
    assert fidelity.constant_baseline == pytest.approx((t @ (mean / np.linalg.norm(mean))).mean(), abs=1e-6)


def test_the_rows_are_compared_alike_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = vectors_of(2, n=50)
    whole = measure_fidelity(noisy(teacher), teacher)
    monkeypatch.setattr(module, "CHUNK_ROWS", 7)
    assert_close(measure_fidelity(noisy(teacher), teacher), whole)


def test_a_sample_of_the_pairs_estimates_the_correlation_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = vectors_of(3, n=400, dim=16)
    student = noisy(teacher, scale=1.0)
    sampled = measure_fidelity(student, teacher).spearman  # 79,800 pairs, of which 50,000 are drawn
    monkeypatch.setattr(module, "MAX_PAIRS", 10**6)
    whole = measure_fidelity(student, teacher).spearman
    assert sampled != whole
    assert sampled == pytest.approx(whole, abs=0.01)


def test_a_constant_student_scores_the_baseline_and_ranks_nothing() -> None:
    teacher = vectors_of(4, n=200)
    constant = np.tile(unit(teacher).mean(axis=0), (200, 1))
    fidelity = measure_fidelity(constant.astype(np.float32), teacher)
    assert fidelity.cosine == pytest.approx(fidelity.constant_baseline, abs=1e-6)
    assert fidelity.cosine_centred == pytest.approx(0.0, abs=0.1)
    assert fidelity.spearman == pytest.approx(0.0, abs=0.05)
    assert fidelity.overlap_at_10 < 0.2  # 10 of 199 by chance


@given(seeds, seeds)
def test_no_constant_beats_the_baseline(seed: int, constant_seed: int) -> None:
    teacher = vectors_of(seed)
    constant = np.random.default_rng(constant_seed).standard_normal(6).astype(np.float32)
    fidelity = measure_fidelity(np.tile(constant, (len(teacher), 1)), teacher)
    assert fidelity.cosine <= fidelity.constant_baseline + 1e-6


def test_opposite_vectors_have_cosine_minus_one_and_the_same_neighbours() -> None:
    teacher = vectors_of(5)
    fidelity = measure_fidelity(-teacher, teacher)
    assert fidelity.cosine == pytest.approx(-1.0, abs=1e-6)
    assert fidelity.overlap_at_10 == 1.0


def test_few_sentences_use_all_neighbours() -> None:
    teacher = vectors_of(6, n=3)
    assert measure_fidelity(-noisy(teacher), teacher).overlap_at_10 == 1.0  # both others are among both others


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-1e6, 1e6, width=32)), min_size=3, max_size=50))
def test_rank_correlation_equals_scipy_with_ties(pairs: list[tuple[int, float]]) -> None:
    a, b = (np.array(values, dtype=np.float32) for values in zip(*pairs, strict=True))
    if len(set(a.tolist())) < 2 or len(set(b.tolist())) < 2:
        assert rank_correlation(a, b) == 0.0
    else:
        assert rank_correlation(a, b) == pytest.approx(scipy.stats.spearmanr(a, b)[0], abs=1e-9)


def test_fidelity_goes_through_json() -> None:
    teacher = vectors_of(7)
    fidelity = measure_fidelity(noisy(teacher), teacher)
    assert Fidelity.from_json(json.loads(json.dumps(fidelity.to_json()))) == fidelity
    assert Fidelity.from_json({**fidelity.to_json(), "of another version": 1}) == fidelity
    with pytest.raises(ValueError, match=r"a fidelity needs cosine_p5, .*measure it again"):
        Fidelity.from_json({"cosine": 1.0})
    with pytest.raises(ValueError, match="not a fidelity"):
        Fidelity.from_json({**fidelity.to_json(), "cosine": None})


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (np.ones((4, 3)), np.ones((4, 2)), "of one shape"),
        (np.ones(4), np.ones(4), r"two arrays \[sentences, dimension\]"),
        (np.ones((2, 3)), np.ones((2, 3)), "at least 3 held-out sentences, got 2"),
        (np.full((4, 3), np.nan), np.ones((4, 3)), "student vectors must be finite: 4 of 4"),
        (np.ones((4, 3)), np.full((4, 3), np.inf), "teacher vectors must be finite"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused(student: np.ndarray, teacher: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_fidelity(student, teacher)


def test_two_thousand_sentences_take_less_than_half_a_second() -> None:
    teacher = vectors_of(8, n=2000, dim=384)
    student = noisy(teacher)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        measure_fidelity(student, teacher)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5
