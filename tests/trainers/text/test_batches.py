# SPDX-License-Identifier: Apache-2.0
"""Batches hold every sentence once, hardly any padding, and follow from the seed."""

from itertools import islice

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainers.text.batches import cut_by_tokens, make_batch, plan_epoch, stream, token_rows


@given(st.lists(st.integers(1, 40), min_size=1, max_size=200), st.integers(1, 100), st.integers(0, 5))
def test_every_sentence_is_in_exactly_one_batch_of_bounded_size(lengths: list[int], budget: int, epoch: int) -> None:
    sizes = np.array(lengths)
    batches = plan_epoch(sizes, batch_tokens=budget, seed=1, epoch=epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * sizes[batch].max() <= budget for batch in batches)


def test_padding_is_under_two_per_cent_of_a_real_length_distribution() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(2.9, 0.45, 20_000).astype(int), 7, 64)
    order = np.argsort(lengths, kind="stable")
    padded = sum(len(batch) * lengths[batch].max() for batch in cut_by_tokens(order, lengths, batch_tokens=1536))
    assert padded / lengths.sum() < 1.02


def test_a_stream_continues_from_any_position() -> None:
    lengths = np.random.default_rng(0).integers(1, 20, 50)
    whole = list(islice(stream(lengths, batch_tokens=64, seed=3), 30))
    epoch, position, _ = whole[17]
    rest = list(islice(stream(lengths, batch_tokens=64, seed=3, epoch=epoch, position=position), 13))
    assert all((a[2] == b[2]).all() and a[:2] == b[:2] for a, b in zip(whole[17:], rest, strict=True))


def test_epochs_and_seeds_differ() -> None:
    lengths = np.full(64, 8)
    plans = [
        np.concatenate(plan_epoch(lengths, batch_tokens=64, seed=seed, epoch=epoch)).tolist()
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert plans[0] != plans[1] and plans[0] != plans[2]


def test_a_batch_holds_its_sentences_tokens_and_knows_where_they_stand() -> None:
    token_ids = np.arange(10, 22, dtype=np.int32)
    offsets = np.array([0, 3, 5, 9, 12])
    batch = make_batch(np.array([1, 2]), token_ids, offsets)
    assert batch.mask is not None and batch.n_tokens == 6
    assert batch.token_ids.tolist() == [[13, 14, 0, 0], [15, 16, 17, 18]]
    assert token_ids[token_rows(batch, offsets)][batch.mask].tolist() == [13, 14, 15, 16, 17, 18]
    equal = make_batch(np.array([0, 3]), token_ids, offsets)
    assert equal.mask is None and equal.token_ids.tolist() == [[10, 11, 12], [19, 20, 21]]
