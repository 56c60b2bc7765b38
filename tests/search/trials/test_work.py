# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace

import pytest
import ray.cloudpickle
import torch

from search.graduation.schedule import time_weights
from search.records.trial import TrialState
from search.trials.journal import read_trials
from search.trials.ray_tune import run_trials
from search.trials.work import DistillationWork
from search.workers.failure import failure_of
from spaces.domain import Choice, Real
from spaces.recipe import Precision, RecipeSpec
from spaces.space import Space
from spaces.student import StaticSpec
from spaces.study.spec import Device
from tests.search.tiny_records import record as record_of
from tests.search.toy_search import ToyWork, Witness, plan
from tests.trainers.tiny import SPEC, data, encoder_with, inheritance
from trainers.distil.loop import NotFiniteError

RECIPE = RecipeSpec(batch_tokens=64, warmup_tokens=200, precision=Precision.FLOAT32, learning_rate=2e-3)
STUDENT = replace(encoder_with(n_layers=1), static=StaticSpec())


@pytest.fixture(scope="module")
def real():
    return DistillationWork(inheritance(), data(), device=Device.CPU)


@pytest.fixture(params=[pytest.param("real", marks=pytest.mark.slow), "toy"])
def work(request):
    """The contract of `TrialWork` holds for every implementation."""
    return request.getfixturevalue("real") if request.param == "real" else ToyWork()


def curve(work, *targets):
    return [(rung.n_tokens, rung.fidelity) for rung in map(work.advance, targets)]


def test_work_that_is_saved_and_restored_goes_on_bit_for_bit(work, tmp_path):
    work.start(STUDENT, RECIPE, seed=1)
    whole = curve(work, 500, 1000, 1500)
    work.start(STUDENT, RECIPE, seed=1)
    begun = curve(work, 500, 1000)
    work.save(tmp_path / "rung-2")
    another = ray.cloudpickle.loads(ray.cloudpickle.dumps(work))
    another.start(STUDENT, RECIPE, seed=1)
    another.restore(tmp_path / "rung-2")
    assert begun + curve(another, 1500) == whole


def test_a_trials_curve_begins_before_training(real):
    real.start(STUDENT, RECIPE, seed=1)
    record = replace(record_of(0), rungs=(first := real.advance(1500), second := real.advance(4000)))
    assert [n_tokens for n_tokens, _ in record.curve] == [0, first.n_tokens, second.n_tokens]
    assert record.untrained == first.untrained and second.untrained is None
    assert record.untrained.cosine < first.fidelity.cosine < second.fidelity.cosine
    assert type(record).from_json(record.to_json()) == record
    before = {**record.to_json(), "rungs": [rung.to_json() for rung in (replace(first, untrained=None), second)]}
    assert "untrained" not in before["rungs"][0]  # as an earlier version wrote it
    assert type(record).from_json(before).curve == record.curve[1:]


def test_work_learns(work):
    work.start(STUDENT, RECIPE, seed=1)
    first, last = work.advance(300), work.advance(6000)
    assert last.fidelity.cosine > first.fidelity.cosine
    assert last.n_tokens >= 6000
    assert last.loss < first.loss
    assert last.tokens_per_s > 0
    assert last.seconds > 0


def test_rungs_closer_than_a_batch_are_measured_and_graduation_knows_the_speed(real):
    real.start(STUDENT, RECIPE, seed=1)
    first = real.advance(500)
    second = real.advance(first.n_tokens)
    assert (second.n_tokens, second.fidelity, second.loss) == (first.n_tokens, first.fidelity, first.loss)
    trial = replace(record_of(0), rungs=(first, second))
    assert trial.tokens_per_s == pytest.approx(first.tokens_per_s)
    assert time_weights([trial.tokens_per_s, trial.tokens_per_s]) == [0.5, 0.5]


def test_a_new_start_forgets_the_student_before(work):
    work.start(STUDENT, RECIPE, seed=1)
    first = curve(work, 500)
    work.start(encoder_with(n_layers=2), RECIPE, seed=1)
    work.advance(500)
    work.start(STUDENT, RECIPE, seed=1)
    assert curve(work, 500) == first


def test_the_bytes_that_are_shipped_are_those_of_all_arrays(real):
    given, inherited = data(), inheritance()
    arrays = [
        given.token_ids,
        given.offsets,
        given.targets.embeddings,
        given.targets.queries,
        given.targets.keys,
        given.targets.values,
        given.targets.hidden,
        given.held_out_token_ids,
        given.held_out_offsets,
        given.held_out_embeddings,
        inherited.calibration_token_ids,
        inherited.calibration_offsets,
        inherited.calibration_embeddings,
        inherited.calibration_targets,
        inherited.token_counts,
        *inherited.teacher.weights.values(),
    ]
    assert real.n_bytes == sum(array.nbytes for array in arrays)


def test_nan_out_of_memory_and_other_exceptions_are_three_outcomes():
    assert str(failure_of(NotFiniteError("the loss is nan"))) == "not finite: the loss is nan"
    assert str(failure_of(MemoryError())) == "out of memory: MemoryError"
    assert str(failure_of(torch.OutOfMemoryError("CUDA"))) == "out of memory: CUDA"
    assert str(failure_of(ValueError("no\n  such thing"))) == "ValueError: no such thing"
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert str(failure_of(caught.value)).startswith("out of memory: ")


def test_a_rate_that_diverges_is_not_finite(real):
    real.start(STUDENT, replace(RECIPE, learning_rate=1e30, warmup_tokens=0), seed=1)
    with pytest.raises(NotFiniteError) as caught:
        real.advance(5000)
    assert str(failure_of(caught.value)).startswith("not finite: ")


@pytest.mark.slow
def test_real_students_are_searched_and_their_checkpoints_are_what_was_measured(real, tmp_path):
    space = Space(
        domains={
            "n_layers": Choice((0, 1, 2)),
            "static_path": Choice((True, False)),
            "learning_rate": Real(1e-4, 1e-2, log=True),
        },
        fixed={"batch_tokens": 64, "warmup_tokens": 100, "precision": "float32"},
    )
    initial = [
        {"n_layers": 0},
        {"n_layers": 2, "static_path": True, "learning_rate": 1e-3},
        {"n_layers": 1, "static_path": False},
    ]
    witness = Witness()
    records = run_trials(
        plan(
            tmp_path,
            space=space,
            teacher=SPEC,
            rungs=(1000, 3000),
            initial_points=initial,
            n_trials=3,
            predict=lambda spec: 1.0 + spec.n_layers,
        ),
        real,
        n_workers=2,
        observers=[witness],
        n_object_bytes=real.n_bytes,
    )
    assert [record.state for record in records] == [TrialState.COMPLETE] * 3
    assert read_trials(tmp_path, "toy") == records
    for record in records:
        assert record.n_tokens >= 3000
        assert record.fidelity.cosine > record.rungs[0].fidelity.cosine
        real.start(record.spec, record.recipe, seed=record.seed)
        real.restore(record.checkpoint)
        again = real.advance(3000)
        assert math.isnan(again.loss)  # nothing is left to train
        assert again.fidelity.cosine == pytest.approx(record.fidelity.cosine, abs=1e-6)
