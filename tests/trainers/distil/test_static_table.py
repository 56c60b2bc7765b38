# SPDX-License-Identifier: Apache-2.0
"""The static table starts from each token's own vector and learns to imitate sentences."""

from dataclasses import replace

import numpy as np
import pytest

from tests.trainers.tiny import data, teacher, teacher_with_tokenizer
from trainers.distil.static_table import frequency_weights, static_spec, token_vectors, train_static_table
from trainers.modules.build import student_from_weights
from trainers.modules.device import CPU
from trainers.modules.embed import embed_tokens


def test_a_tokens_vector_is_the_teachers_between_its_special_tokens() -> None:
    vectors = token_vectors(teacher_with_tokenizer(), device=CPU)
    expected = embed_tokens(teacher().student(), np.array([58, 7, 59], np.int32), np.array([0, 3]))[0]
    assert float(vectors[7] @ expected) > 0.999


def test_frequent_tokens_weigh_less_and_absent_ones_one() -> None:
    weights = frequency_weights(np.array([0] * 90 + [1] * 10, dtype=np.int32), 3)
    np.testing.assert_allclose(weights, [0.001 / 0.901, 0.001 / 0.101, 1.0], rtol=1e-5)


def test_equal_seeds_give_equal_tables_where_no_clock_decides() -> None:
    source = teacher_with_tokenizer()
    first, second, other = (
        train_static_table(source, data(), n_tokens=20_000, seed=seed, device=CPU) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("seconds", [None, 0.6])
def test_training_the_table_raises_fidelity(seconds: float | None) -> None:
    tiny = data()
    source = teacher_with_tokenizer()
    untrained = token_vectors(source, device=CPU) * frequency_weights(tiny.token_ids, 60)[:, None]
    trained = train_static_table(source, tiny, n_tokens=100_000, seconds=seconds, seed=0, device=CPU)

    def cosine(table: np.ndarray) -> float:
        student = student_from_weights(static_spec(source.spec), {"static.tokens": table})
        vectors = embed_tokens(student, tiny.held_out_token_ids, tiny.held_out_offsets)
        return float((vectors * tiny.held_out_embeddings).sum(axis=1).mean())

    assert cosine(trained) > cosine(untrained)


def test_the_table_has_the_length_of_a_teacher_that_is_not_normalised() -> None:
    tiny, source = data(normalise=False), replace(teacher_with_tokenizer(), spec=teacher(normalise=False).spec)
    table = train_static_table(source, tiny, n_tokens=20_000, seed=0, device=CPU)
    student = student_from_weights(static_spec(source.spec), {"static.tokens": table})
    vectors = embed_tokens(student, tiny.held_out_token_ids, tiny.held_out_offsets)
    lengths = [np.linalg.norm(rows, axis=1) for rows in (vectors, tiny.held_out_embeddings)]
    assert abs(np.log(lengths[0] / lengths[1]).mean()) < 0.1
