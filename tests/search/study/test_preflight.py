# SPDX-License-Identifier: Apache-2.0
"""Claims about what is refused before a search computes anything."""

from __future__ import annotations

import sys

import pytest

from search.study.preflight import check_runtime
from spaces.profile import Runtime


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
