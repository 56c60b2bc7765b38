# SPDX-License-Identifier: Apache-2.0
"""Claims about one rung of a trial, without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.trials.actor import MEASURED, TASK, Measured, TrialActor, TrialTask
from spaces.recipe import RecipeSpec
from tests.search.toy_search import TEACHER, ToyWork


@pytest.mark.parametrize("text", [None, "", "{"], ids=["no file", "an empty one", "half of one"])
def test_a_checkpoint_that_cannot_be_read_means_training_from_the_beginning(text: str | None, tmp_path: Path) -> None:
    lost = tmp_path / "trial-0000" / "rung-1"
    lost.mkdir(parents=True)
    if text is not None:
        (lost / "toy.json").write_text(text)
    measured = rung_of(tmp_path / "after", n_done=1, rungs=(200, 400), restore=lost)
    unbroken = rung_of(tmp_path / "unbroken", n_done=0, rungs=(200, 400), restore=None)
    assert measured.rung.n_tokens == 200
    assert measured.rung.fidelity == unbroken.rung.fidelity
    assert measured.checkpoint.name == "rung-2"


def rung_of(folder: Path, *, n_done: int, rungs: tuple[int, ...], restore: Path | None) -> Measured:
    """What an actor that begins a trial measures first."""
    task = TrialTask(
        number=0,
        spec=TEACHER,
        recipe=RecipeSpec(),
        seed=0,
        rungs=rungs,
        n_done=n_done,
        folder=folder,
        restore=restore,
        memory_gib=None,
    )
    actor = object.__new__(TrialActor)
    actor._work = ToyWork()
    actor.reset_config({TASK: task})
    measured = actor.step()[MEASURED]
    assert isinstance(measured, Measured)
    return measured
