# SPDX-License-Identifier: Apache-2.0
"""Claims about what is refused before a search computes anything."""

from __future__ import annotations

import sys

import pytest

from search.study.preflight import check_runtime, check_search
from spaces.errors import UserError
from spaces.profile import Runtime
from spaces.study import SearchSpec


@pytest.mark.parametrize("runtime", list(Runtime))
def test_every_runtime_can_be_measured_where_all_is_installed(runtime: Runtime) -> None:
    check_runtime(runtime)


def test_a_runtime_that_is_not_installed_is_refused_with_what_is_missing_and_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    told = r"runtime onnx needs onnx and onnxruntime, .* not installed here; pip install 'understudy\[export\]', or .*"
    with pytest.raises(ValueError, match=told):
        check_runtime(Runtime.ONNX)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "no_such_module:Sampler"}, r"search\.sampler must name a class that can be imported.*PYTHONPATH"),
        ({"sampler": "optuna.pruners:MedianPruner"}, "subclass of Optuna's BaseSampler"),
        ({"pruner": "optuna.samplers:TPESampler"}, "subclass of Optuna's BasePruner"),
        ({"pruner": "optuna.pruners:PercentilePruner"}, "without further arguments"),
    ],
)
def test_a_sampler_or_pruner_that_is_none_is_refused_before_anything_is_computed(
    change: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_search(SearchSpec(rungs=(1,), n_trials=1, **change))  # type: ignore[arg-type]


def test_samplers_and_pruners_of_optuna_are_accepted() -> None:
    names = {"sampler": "optuna.samplers:NSGAIISampler", "pruner": "optuna.pruners:MedianPruner"}
    check_search(SearchSpec(rungs=(1,), n_trials=1, **names))  # type: ignore[arg-type]
    check_search(SearchSpec(rungs=(1,), n_trials=1))
