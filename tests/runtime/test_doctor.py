# SPDX-License-Identifier: Apache-2.0
"""The doctor names what students really run on."""

import numpy as np
import pytest

from runtime import Engine, instruction_sets
from runtime.doctor import diagnose
from spaces.student import StaticSpec, StudentSpec

SPEC = StudentSpec(vocabulary_size=8, output_dim=4, static=StaticSpec())


def test_it_names_what_an_engine_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"static.tokens": np.ones((8, 4), np.float32)}
    monkeypatch.delenv("UNDERSTUDY_INSTRUCTION_SET", raising=False)
    assert diagnose().used == Engine(SPEC, weights).instruction_set
    for each in instruction_sets():
        monkeypatch.setenv("UNDERSTUDY_INSTRUCTION_SET", each.name)
        assert diagnose().used == (each.name if each.usable else None)
        assert f"{'yes' if each.usable else 'no'} " in str(diagnose()) and each.reason in str(diagnose())
    assert "forced by UNDERSTUDY_INSTRUCTION_SET" in diagnose().why


def test_a_forced_set_that_cannot_be_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_INSTRUCTION_SET", "abacus")
    diagnosis = diagnose()
    assert diagnosis.used is None
    assert "forces abacus, which cannot be used here; choose one of" in diagnosis.why
    assert diagnosis.to_json()["used"] is None
