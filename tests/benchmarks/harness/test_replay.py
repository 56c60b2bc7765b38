# SPDX-License-Identifier: Apache-2.0
"""Claims about the replays that searchers are compared by."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import optuna
import pytest

from benchmarks import search_efficiency
from benchmarks.harness.replay import Finish, fractions, replay
from benchmarks.harness.searchers import _position, methods
from search.optimiser.pareto import dominates

RUNGS = (1, 3, 9)


class Hill:
    """Larger networks err less and cost more; a rate must be right."""

    rungs = RUNGS
    worst_cost = None
    log2_error = False
    random_points = ((3.0, 0.5),)

    def __init__(self, *ignored):
        optuna.logging.set_verbosity(optuna.logging.ERROR)

    def ask(self, study):
        trial = study.ask()
        trial.suggest_int("units", 1, 100, log=True)
        trial.suggest_float("rate", 1e-4, 1.0, log=True)
        return trial, trial.params

    def cost(self, configuration):
        return math.log(configuration["units"])

    def active(self, configuration):
        return configuration

    def curve(self, configuration):
        error = 1.0 / configuration["units"] + 0.1 * abs(math.log10(configuration["rate"] / 1e-2))
        return [error * (1.0 + 0.3 * math.log(RUNGS[-1] / rung)) for rung in RUNGS]

    def hypervolume(self, points):
        area, least = 0.0, 1.0
        for i, (cost, error) in enumerate(ordered := sorted(p for p in points if p[0] < 5.0)):
            least = min(least, error)
            area += ((ordered[i + 1][0] if i + 1 < len(ordered) else 5.0) - cost) * (1.0 - least)
        return area


class Stops:
    """A method that stops every second trial at its first rung, and writes down what it hears."""

    def __init__(self):
        self.heard = []
        self._numbers = itertools.count()

    def ask(self):
        number = next(self._numbers)
        return number, {"units": 10, "rate": 1e-2}

    def reached(self, handle, rung, error):
        self.heard.append((handle, rung, error))
        return handle % 2 == 0

    def finished(self, handle, error):
        self.heard.append((handle, len(RUNGS) - 1, error))


def test_a_worker_spends_a_trials_steps_and_no_more_than_the_budget():
    method = Stops()
    finished, ended = replay(method, Hill(), n_workers=1, budget=30)
    assert [each.steps for each in finished] == [9.0, 19.0, 29.0]
    assert ended == [3, 0, 3]
    curve = Hill().curve({"units": 10, "rate": 1e-2})
    assert method.heard[:4] == [(0, 0, curve[0]), (0, 1, curve[1]), (0, 2, curve[2]), (1, 0, curve[0])]


def test_two_workers_share_the_budget_and_report_in_the_order_of_time():
    method = Stops()
    finished, _ = replay(method, Hill(), n_workers=2, budget=40)
    assert max(each.steps for each in finished) <= 40
    assert [handle for handle, _, _ in method.heard[:4]] == [0, 1, 2, 0]


def test_shares_are_of_what_was_finished_by_then():
    finished = [Finish(5.0, (4.0, 0.5)), Finish(20.0, (3.0, 0.5))]
    assert fractions(Hill(), finished, budget=20, best=1.0) == {"0.25": 0.5, "0.5": 0.5, "1.0": 1.0}


def test_the_position_of_mo_asha_goes_by_fronts():
    generator = np.random.default_rng(0)
    for _ in range(50):
        points = [tuple(point) for point in generator.random((12, 2)).tolist()]
        flipped = [(cost, -error) for cost, error in points]
        n_before = 0
        left = list(range(12))
        while left:  # by definition: whoever nobody beats comes first
            front = [i for i in left if not any(dominates(flipped[j], flipped[i]) for j in left)]
            if 11 in front:
                break
            n_before += len(front)
            left = [i for i in left if i not in front]
        assert n_before <= _position(points) < n_before + len(front)


@pytest.mark.parametrize("name", ["random", "tpe", "mo-asha", "tpe+mo-asha", "understudy"])
def test_equal_seeds_replay_alike(name):
    first, second = (replay(methods()[name](Hill(), 3), Hill(), n_workers=2, budget=60) for _ in range(2))
    assert first == second
    assert first[0]


def test_the_last_line_is_the_document_that_is_promised(monkeypatch, capsys, tmp_path):
    (tmp_path / "model.onnx").touch()
    monkeypatch.setattr(search_efficiency, "Surrogate", Hill)
    monkeypatch.setattr(search_efficiency, "Task", Hill)
    command = ["search_efficiency", "--surrogate", str(tmp_path), "--tasks", "1", "2", "--seeds", "2", "--workers", "2"]
    monkeypatch.setattr("sys.argv", [*command, "--methods", "random", "understudy", "--budget", "2", "--json"])
    search_efficiency.main()
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (document["tasks"], document["seeds"], document["workers"]) == (["1", "2"], 2, 2)
    for shares in document["methods"].values():
        assert set(shares) == {"0.25", "0.5", "1.0"}
        assert shares["0.25"][0] <= shares["0.5"][0] <= shares["1.0"][0] <= 1.0
    assert set(document["methods"]) == {"random", "understudy"}


def test_a_surrogate_that_is_not_there_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["search_efficiency", "--surrogate", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit):
        search_efficiency.main()
    assert "nowhere" in capsys.readouterr().err
