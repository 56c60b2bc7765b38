# SPDX-License-Identifier: Apache-2.0
"""Claims about one student's graduation in one worker, without Ray."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from search.graduation.state import DONE, FAILED, GraduationJob, GraduationState, GraduationTask
from search.graduation.worker import Graduation
from spaces.recipe import Precision, RecipeSpec
from spaces.student import StaticSpec, StudentSpec
from spaces.study.spec import Device
from tests.search.toy_search import rung
from tests.trainers.tiny import data
from trainers.distil.loop import Distillation
from trainers.distil.replicas import Replica
from trainers.modules.build import build

STATIC = StudentSpec(vocabulary_size=60, output_dim=32, static=StaticSpec())
RECIPE = RecipeSpec(batch_tokens=64, warmup_tokens=100, precision=Precision.FLOAT32)
DATA = data()


def saved(folder: Path, n_tokens: int) -> int:
    """Saves a distillation of so many tokens or a few more; returns how many they were."""
    distillation = Distillation(build(STATIC, seed=7), RECIPE, DATA, seed=7)
    distillation.advance(n_tokens)
    distillation.save(folder)
    return distillation.n_tokens


def cut_off(folder: Path) -> None:
    """Leaves of a checkpoint what a power failure may leave: weights of which the second half is missing."""
    (weights,) = folder.glob("*.safetensors")
    os.truncate(weights, weights.stat().st_size // 2)


def task_in(study: Path, *, max_tokens: int = 3_000) -> GraduationTask:
    return GraduationTask(
        name="trial-0001",
        spec=STATIC,
        recipe=RECIPE,
        seed=7,
        checkpoint=study / "trials" / "trial-0001" / "rung-2",
        folder=study / "graduation" / "trial-0001",
        weight=1.0,
        tokens_per_s=10_000.0,
        max_tokens=max_tokens,
        document={"tokenizer": {"max_tokens": 16}},
        memory_gib=None,
        heartbeat_limit_s=600.0,
    )


def graduated(task: GraduationTask, study: Path) -> GraduationState:
    """The state of a student after one worker was given the task."""
    job = GraduationJob(
        groups=((task,),),
        workers_per_student=1,
        seconds=None,
        folder=study / "job",
        tokenizer_json="",
        device=Device.CPU,
    )
    Graduation(task, DATA, job=job, replica=Replica(rank=0, n_replicas=1, group=None), slice_s=None).run(job.stop_file)
    state = GraduationState.read(task.folder)
    assert state is not None
    return state


def errors_of(task: GraduationTask, study: Path) -> str:
    path = study / "errors" / f"{task.name}.txt"
    return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.mark.parametrize("lost", [(), ("state",), ("state", "stable")])
def test_a_graduation_goes_on_from_the_latest_checkpoint_that_is_whole(lost: tuple[str, ...], tmp_path: Path) -> None:
    task = task_in(tmp_path)
    n_trial = saved(task.checkpoint, 500)
    n_stable = saved(task.folder / "stable", 1_500)
    n_state = saved(task.folder / "state", 2_500)
    for name in lost:
        cut_off(task.folder / name)
    curve = tuple(rung(n, 0.5) for n in (n_trial + 1, n_stable, n_state))
    GraduationState(start_tokens=n_trial, decay=(n_stable, 3_000), curve=curve).write(task.folder)
    state = graduated(task, tmp_path)
    assert (state.status, state.outcome) == (DONE, None)
    kept = {(): curve, ("state",): curve[:2], ("state", "stable"): ()}[lost]
    assert [one for one in state.curve if one in curve] == list(kept)
    assert ("stable" in lost) == (state.decay != (n_stable, 3_000))
    assert state.n_tokens >= 3_000
    said = errors_of(task, tmp_path)
    assert all(str(task.folder / name) in said for name in lost) and bool(said) == bool(lost)


def test_a_graduation_with_no_whole_checkpoint_fails_and_says_so(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    saved(task.checkpoint, 500)
    cut_off(task.checkpoint)
    state = graduated(task, tmp_path)
    assert state.status == FAILED and state.outcome is not None
    assert state.outcome.exception == "LostCheckpointError" and str(task.checkpoint) in state.outcome.details


def test_a_checkpoint_of_another_run_fails_the_student(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    saved(task.checkpoint, 500)
    state = graduated(replace(task, recipe=replace(RECIPE, temperature=0.2)), tmp_path)
    assert state.status == FAILED and state.outcome is not None and "another recipe" in state.outcome.details
