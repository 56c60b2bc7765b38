# SPDX-License-Identifier: Apache-2.0
"""Two processes that share each batch arrive where one process does, up to rounding."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as distributed
from safetensors.numpy import load_file, save_file

from spaces.recipe import LossWeights, Precision, RecipeSpec
from spaces.student import StaticSpec
from tests.trainers.tiny import data, encoder_with
from trainers.distil.loop import Distillation
from trainers.distil.replicas import Replica
from trainers.modules.build import build, weights_of

RECIPE = RecipeSpec(
    losses=LossWeights(cosine=1.0, query_key=0.1, value_value=0.1, hidden=0.1, similarity=0.5),
    n_relation_heads=4,
    batch_tokens=100,
    warmup_tokens=300,
    precision=Precision.FLOAT32,
)


def distil(replica: Replica | None) -> dict[str, np.ndarray]:
    spec = replace(encoder_with(n_layers=1), static=StaticSpec())
    distillation = Distillation(build(spec, seed=0), RECIPE, data(), seed=4, replica=replica)
    distillation.advance(1500)
    return weights_of(distillation.student)


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    save_file(distil(Replica(rank=rank, n_replicas=2, group=None)), folder / f"{rank}.safetensors")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_replicas_equal_one_process(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], env=environment) for rank in range(2)
    ]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    alone = distil(None)
    for rank in range(2):
        for name, value in load_file(tmp_path / f"{rank}.safetensors").items():
            np.testing.assert_allclose(value, alone[name], atol=1e-3, err_msg=name)


@pytest.mark.parametrize(("n_replicas", "n_sentences"), [(2, 7), (3, 3), (4, 64)])
def test_shares_cover_a_batch_once_and_weights_average_to_one(n_replicas: int, n_sentences: int) -> None:
    replicas = [Replica(rank=rank, n_replicas=n_replicas, group=None) for rank in range(n_replicas)]
    covered = [i for replica in replicas for i in range(n_sentences)[replica.share(n_sentences)]]
    assert covered == list(range(n_sentences))
    assert sum(replica.sentence_weight(n_sentences) for replica in replicas) == pytest.approx(n_replicas)


def test_fewer_sentences_than_replicas_are_computed_by_each_of_them() -> None:
    for rank in range(3):
        replica = Replica(rank=rank, n_replicas=3, group=None)
        assert range(2)[replica.share(2)] == range(2)
        assert replica.sentence_weight(2) == replica.token_weight(np.array([4, 9])) == 1.0
        vectors = torch.ones(2, 3)
        assert replica.gather(vectors, 2) is vectors


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
