# SPDX-License-Identifier: Apache-2.0
"""A distillation learns, resumes bit for bit, reaches sparsity, and stops on what is not finite."""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spaces.recipe import LossWeights, Precision, RecipeSpec
from spaces.student import StaticSpec, StudentSpec, Switch, n_zero_blocks
from tests.trainers.tiny import SPEC, data, encoder_with
from trainers.distil.loop import Distillation, DistillationData, LostCheckpointError, NotFiniteError
from trainers.distil.prune import block_sums, prunable_matrices
from trainers.modules.build import build, weights_of
from trainers.modules.embed import embed_tokens

RECIPE = RecipeSpec(
    losses=LossWeights(cosine=1.0, query_key=0.1, value_value=0.1, hidden=0.1, similarity=0.1),
    n_relation_heads=4,
    batch_tokens=128,
    warmup_tokens=500,
    pruning_tokens=2000,
    learning_rate=2e-3,
)
STATIC = StudentSpec(vocabulary_size=60, output_dim=32, static=StaticSpec())
SWITCH = encoder_with(n_layers=1, feed_forward=Switch(n_experts=2, units=32))
COSINE_ONLY = replace(RECIPE, losses=LossWeights(), precision=Precision.FLOAT32)


@pytest.fixture(scope="module")
def tiny_data() -> DistillationData:
    return data()


@pytest.mark.parametrize("spec", [encoder_with(n_layers=1), SWITCH, replace(SPEC, static=StaticSpec()), STATIC])
def test_fidelity_rises(spec: StudentSpec, tiny_data: DistillationData) -> None:
    recipe = COSINE_ONLY if spec.encoder is None else RECIPE
    distillation = Distillation(build(spec, seed=0), recipe, tiny_data, seed=0)
    before = distillation.evaluate().cosine
    progress = distillation.advance(12_000)
    assert progress.n_tokens >= 12_000 and progress.tokens_per_s > 0.0
    assert distillation.evaluate().cosine > before + 0.05


def test_a_student_learns_the_length_of_a_teacher_that_is_not_normalised() -> None:
    spec, tiny = replace(encoder_with(n_layers=1), normalise=False), data(normalise=False)
    token_ids, offsets, target = tiny.held_out_token_ids, tiny.held_out_offsets, tiny.held_out_embeddings
    distillation = Distillation(build(spec, seed=0), COSINE_ONLY, tiny, seed=0)
    distillation.advance(20_000)
    vectors = embed_tokens(distillation.averaged(), token_ids, offsets)
    lengths, right = np.linalg.norm(vectors, axis=1), np.linalg.norm(target, axis=1)
    assert np.corrcoef(lengths, right)[0, 1] > 0.6
    assert np.abs(np.log(lengths / right)).mean() < 0.1


@pytest.mark.parametrize("precision", list(Precision))
def test_a_restored_run_goes_on_bit_for_bit(precision: Precision, tiny_data: DistillationData, tmp_path: Path) -> None:
    spec = replace(encoder_with(n_layers=1, sparsity=0.5), static=StaticSpec())
    recipe = replace(RECIPE, precision=precision)

    def fresh() -> Distillation:
        return Distillation(build(spec, seed=0), recipe, tiny_data, seed=7, sparsity=0.5)

    whole = fresh()
    whole.advance(1000)
    whole.begin_decay(1000, 6000)
    whole.save(tmp_path)
    whole.advance(5000)
    again = fresh()
    again.restore(tmp_path)
    again.advance(5000)
    for expected, got in ((whole.student, again.student), (whole.averaged(), again.averaged())):
        ours, theirs = weights_of(expected), weights_of(got)
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_another_recipes_checkpoint_is_refused(tiny_data: DistillationData, tmp_path: Path) -> None:
    distillation = Distillation(build(STATIC, seed=0), COSINE_ONLY, tiny_data, seed=0)
    distillation.save(tmp_path)
    other = Distillation(build(STATIC, seed=0), replace(COSINE_ONLY, temperature=0.2), tiny_data, seed=0)
    with pytest.raises(ValueError, match="another recipe"):
        other.restore(tmp_path)


@pytest.mark.parametrize("name", ["distillation.json", "weights"])
@pytest.mark.parametrize("share", [None, 0.0, 0.5, 0.99])
def test_a_checkpoint_that_is_not_whole_is_lost(
    tiny_data: DistillationData, tmp_path: Path, name: str, share: float | None
) -> None:
    Distillation(build(STATIC, seed=0), COSINE_ONLY, tiny_data, seed=0).save(tmp_path)
    (path,) = tmp_path.glob("*.safetensors") if name == "weights" else [tmp_path / name]
    if share is None:
        path.unlink()
    else:
        os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(LostCheckpointError, match=re.escape(str(tmp_path))):
        Distillation(build(STATIC, seed=0), COSINE_ONLY, tiny_data, seed=0).restore(tmp_path)


def test_a_sparse_student_ends_with_exact_zero_blocks(tiny_data: DistillationData) -> None:
    spec = encoder_with(n_layers=1, sparsity=0.6)
    distillation = Distillation(build(spec, seed=0), RECIPE, tiny_data, seed=0, sparsity=0.6)
    distillation.advance(4000)
    for student in (distillation.student, distillation.averaged()):
        for _, weight in prunable_matrices(student):
            blocks = block_sums(weight.detach().abs())
            assert int((blocks == 0).sum()) == n_zero_blocks(blocks.numel(), 0.6)


def test_divergence_is_its_own_error(tiny_data: DistillationData) -> None:
    embeddings = np.full_like(tiny_data.targets.embeddings, np.nan)
    poisoned = replace(tiny_data, targets=replace(tiny_data.targets, embeddings=embeddings))
    with pytest.raises(NotFiniteError, match="the loss is nan before the first step"):
        Distillation(build(SPEC, seed=0), RECIPE, poisoned, seed=0).advance(1000)


def test_a_student_whose_vectors_are_not_finite_has_diverged(tiny_data: DistillationData) -> None:
    distillation = Distillation(build(SPEC, seed=0), RECIPE, tiny_data, seed=0)
    next(iter(distillation.average.values())).fill_(np.nan)
    with pytest.raises(NotFiniteError, match=r"vectors are not finite before the first step.*float32, or .*teacher"):
        distillation.evaluate()


def test_what_is_not_finite_after_steps_has_the_learning_rate_as_its_remedy(tiny_data: DistillationData) -> None:
    distillation = Distillation(build(SPEC, seed=0), RECIPE, tiny_data, seed=0)
    distillation.advance(1)
    next(iter(distillation.average.values())).fill_(np.nan)
    with pytest.raises(NotFiniteError, match="vectors are not finite after 1 step; lower the learning rate"):
        distillation.evaluate()


def test_the_learning_rate_rises_stays_and_falls(tiny_data: DistillationData) -> None:
    distillation = Distillation(build(STATIC, seed=0), COSINE_ONLY, tiny_data, seed=0)
    distillation.begin_decay(2000, 4000)
    factors = []
    for n_tokens in (0, 249, 1000, 3000, 4000, 9000):
        distillation.n_tokens = n_tokens
        factors.append(distillation.learning_rate_factor())
    assert factors == pytest.approx([1 / 500, 0.5, 1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_a_relative_rate_is_a_multiple_of_the_error_before_training(
    sparsity: float, tiny_data: DistillationData, tmp_path: Path
) -> None:
    recipe = replace(COSINE_ONLY, learning_rate=None, relative_learning_rate=4e-3, pruning_tokens=0)
    spec = encoder_with(n_layers=1, sparsity=sparsity)

    def fresh(recipe: RecipeSpec) -> Distillation:
        return Distillation(build(spec, seed=0), recipe, tiny_data, seed=0, sparsity=sparsity)

    student = build(spec, seed=0)
    if sparsity:  # what a plain one-shot magnitude pruning leaves
        for _, weight in prunable_matrices(student):
            scores = block_sums(weight.detach().abs())
            lowest = scores.flatten().argsort(stable=True)[: n_zero_blocks(scores.numel(), sparsity)]
            keep = torch.ones(scores.numel()).index_fill(0, lowest, 0.0).view_as(scores)
            weight.data.mul_(keep.repeat_interleave(16, dim=0).repeat_interleave(4, dim=1))
    vectors = embed_tokens(
        student, tiny_data.held_out_token_ids, tiny_data.held_out_offsets, precision=Precision.FLOAT32
    )
    cosines = torch.nn.functional.cosine_similarity(
        torch.from_numpy(vectors), torch.from_numpy(tiny_data.held_out_embeddings)
    )
    error = 1.0 - float(cosines.mean())
    relative, absolute = fresh(recipe), fresh(replace(COSINE_ONLY, learning_rate=4e-3 * error, pruning_tokens=0))
    assert relative.peak_learning_rate == pytest.approx(4e-3 * error, rel=1e-4)
    for one in (relative, absolute):
        one.advance(2000)
    ours, theirs = weights_of(relative.student), weights_of(absolute.student)
    assert all(np.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)
    relative.save(tmp_path)
    again = fresh(recipe)
    again.restore(tmp_path)
    assert again.untrained() == relative.untrained()
    with pytest.raises(ValueError, match="before the first step"):
        absolute.untrained()


def test_only_touched_rows_of_the_tables_move(tiny_data: DistillationData) -> None:
    student = build(STATIC, seed=0)
    before = weights_of(student)["static.tokens"]
    distillation = Distillation(student, COSINE_ONLY, tiny_data, seed=0)
    used = np.unique(tiny_data.token_ids)
    distillation.advance(len(tiny_data.token_ids))
    moved = (weights_of(student)["static.tokens"] != before).any(axis=1)
    assert set(np.flatnonzero(moved)) == set(used)


def test_missing_targets_and_unequal_widths_are_named(tiny_data: DistillationData) -> None:
    bare = replace(tiny_data, targets=replace(tiny_data.targets, queries=None))
    with pytest.raises(ValueError, match="queries"):
        Distillation(build(SPEC, seed=0), RECIPE, bare, seed=0).advance(1)
    with pytest.raises(ValueError, match="static student"):
        Distillation(build(STATIC, seed=0), RECIPE, tiny_data, seed=0).advance(1)


def test_float32_steps_equal_a_plain_torch_loop(tiny_data: DistillationData) -> None:
    spec = encoder_with(n_layers=1)
    recipe = replace(COSINE_ONLY, warmup_tokens=0, batch_tokens=10**9)  # one batch an epoch
    ours = Distillation(build(spec, seed=0), recipe, tiny_data, seed=0)
    plain = build(spec, seed=0).train()
    optimiser = torch.optim.Adam(plain.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98))
    assert plain.embeddings is not None
    table = plain.embeddings.tokens
    table_optimiser = torch.optim.Adam([table], lr=recipe.table_learning_rate, betas=(0.9, 0.99))
    optimiser.param_groups[0]["params"] = [p for p in plain.parameters() if p is not table]
    lengths = np.diff(tiny_data.offsets)
    mask = torch.arange(int(lengths.max())) < torch.from_numpy(lengths)[:, None]
    token_ids = torch.zeros(mask.shape, dtype=torch.long)
    token_ids[mask] = torch.from_numpy(tiny_data.token_ids.astype(np.int64))
    target = torch.from_numpy(tiny_data.targets.embeddings).float()
    for _ in range(3):
        loss = 1.0 - torch.nn.functional.cosine_similarity(plain(token_ids, mask).embeddings, target).mean()
        optimiser.zero_grad()
        table_optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        table_optimiser.step()
    ours.advance(3 * len(tiny_data.token_ids))
    for name, value in weights_of(plain).items():
        np.testing.assert_allclose(weights_of(ours.student)[name], value, atol=2e-4, err_msg=name)
