# SPDX-License-Identifier: Apache-2.0
"""Claims about one rung of a trial, without Ray."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from search.trials.actor import MEASURED, TASK, Failed, Measured, TrialActor, TrialTask
from spaces.recipe import RecipeSpec
from tests.search.toy_search import TEACHER, ToyWork


@pytest.mark.parametrize("text", [None, "", "{"], ids=["no file", "an empty one", "half of one"])
def test_a_checkpoint_that_cannot_be_read_means_training_from_the_beginning(text: str | None, tmp_path: Path) -> None:
    lost = tmp_path / "trial-0000" / "rung-1"
    lost.mkdir(parents=True)
    if text is not None:
        (lost / "toy.json").write_text(text)
    measured = rung_of(tmp_path / "trials" / "trial-0001", n_done=1, rungs=(200, 400), restore=lost)
    unbroken = rung_of(tmp_path / "trials" / "trial-0002", n_done=0, rungs=(200, 400), restore=None)
    said = (tmp_path / "errors" / "trial-0001.txt").read_text()
    assert "trained again from the beginning" in said and str(lost) in said
    assert measured.rung.n_tokens == 200
    assert measured.rung.fidelity == unbroken.rung.fidelity
    assert measured.checkpoint.name == "rung-2"


@dataclass
class OthersCheckpoint(ToyWork):
    """Work to which every checkpoint is another run's."""

    def restore(self, folder: Path) -> None:
        raise ValueError(f"{folder} holds a run of another recipe or seed; restore it with its own")


def test_a_checkpoint_of_another_run_ends_the_trial(tmp_path: Path) -> None:
    folder = tmp_path / "trials" / "trial-0001"
    failed = result_of(folder, n_done=1, rungs=(200, 400), restore=tmp_path, work=OthersCheckpoint())
    assert isinstance(failed, Failed)
    assert failed.outcome.exception == "ValueError" and "another recipe or seed" in str(failed.outcome)
    assert "another recipe or seed" in failed.details


def rung_of(folder: Path, *, n_done: int, rungs: tuple[int, ...], restore: Path | None) -> Measured:
    """What an actor that begins a trial measures first."""
    measured = result_of(folder, n_done=n_done, rungs=rungs, restore=restore, work=ToyWork())
    assert isinstance(measured, Measured)
    return measured


def result_of(
    folder: Path, *, n_done: int, rungs: tuple[int, ...], restore: Path | None, work: ToyWork
) -> Measured | Failed:
    """What an actor that begins a trial answers first."""
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
    actor._work = work
    actor.reset_config({TASK: task})
    result: Measured | Failed = actor.step()[MEASURED]
    return result
