# SPDX-License-Identifier: Apache-2.0
"""Every loss that a recipe may weigh is a term of the objective, and is given what it compares."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from spaces.recipe import LOSSES, LossWeights, RecipeSpec, TeacherOutput
from tests.trainers.tiny import data, encoder_with
from trainers.distil.objective import BatchTargets, distillation_loss
from trainers.distil.replicas import Replica
from trainers.modules.build import build
from trainers.modules.device import CPU
from trainers.text.batches import make_batch

ALONE = Replica(rank=0, n_replicas=1, group=None)
DATA = data(40)
BATCH = make_batch(np.arange(8), DATA.token_ids, DATA.offsets)
STUDENT = build(encoder_with(n_layers=1), seed=3)


def loss_of(losses: LossWeights) -> Tensor:
    """The objective of a random student on one batch of the tiny teacher's text."""
    recipe = RecipeSpec(losses=losses, n_relation_heads=4)
    targets = BatchTargets.of(DATA.targets, BATCH, DATA.offsets, losses, device=CPU)
    mask = None if BATCH.mask is None else torch.from_numpy(BATCH.mask)
    output = STUDENT(torch.from_numpy(BATCH.token_ids), mask)
    return distillation_loss(output, mask, targets, recipe, share=slice(None), replica=ALONE)


def only(name: str, weight: float = 1.0) -> LossWeights:
    """Weights of one loss alone."""
    return LossWeights(**{**dict.fromkeys(LOSSES, 0.0), name: weight})


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_a_term_in_proportion_to_its_weight(name: str) -> None:
    term = loss_of(only(name)).item()
    assert term > 0.0
    assert loss_of(only(name, 3.0)).item() == pytest.approx(3.0 * term, rel=1e-5)


def test_the_objective_is_the_sum_of_its_terms() -> None:
    together = loss_of(LossWeights(**dict.fromkeys(LOSSES, 1.0))).item()
    assert together == pytest.approx(sum(loss_of(only(name)).item() for name in LOSSES), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("output", TeacherOutput)
def test_a_batch_holds_what_its_losses_compare_and_no_more(name: str, output: TeacherOutput) -> None:
    targets = BatchTargets.of(DATA.targets, BATCH, DATA.offsets, only(name), device=CPU)
    assert (getattr(targets, output) is not None) == (output in LOSSES[name].compares)


@pytest.mark.parametrize("output", TeacherOutput)
def test_what_a_loss_compares_must_have_been_cached(output: TeacherOutput) -> None:
    name = next(name for name, loss in LOSSES.items() if output in loss.compares)
    without = replace(DATA.targets, **{str(output): None})
    with pytest.raises(ValueError, match=f"need the teacher's {output}, which were not cached"):
        BatchTargets.of(without, BATCH, DATA.offsets, only(name), device=CPU)
