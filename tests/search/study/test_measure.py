# SPDX-License-Identifier: Apache-2.0
"""Claims about the final measurement: what an earlier command measured is read, unless the runtime is another."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.engine import INSTRUCTION_SET, instruction_sets
from search.storage.reference_students import teacher_name_on
from search.storage.store import Store
from search.storage.study_state import StudyState
from search.study.budget import TimePlan
from search.study.measure import FinalMeasurement, measure_all
from search.study.prepare import prepare
from search.study.references import REFERENCES, measure_references
from spaces.profile import Runtime
from tests.search.reporters import Silent
from tests.search.tiny_study import tiny_study


@pytest.mark.slow
def test_what_another_instruction_set_measured_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usable = [each.name for each in instruction_sets() if each.usable]
    if len(usable) < 2:
        pytest.skip(f"this machine runs students on {usable} alone")
    study, store = tiny_study(tmp_path), Store(tmp_path / "store")
    plan = TimePlan(budget_s=30.0, graduation_share=0.5, max_students=3)
    monkeypatch.setenv(INSTRUCTION_SET, usable[0])
    prepared = prepare(study, store=store, plan=plan, reporter=Silent())
    state = StudyState.of(store, study.name)

    references = measure_references(prepared, state=state, reporter=Silent())
    known = state.read(REFERENCES)

    def measured() -> FinalMeasurement:
        return measure_all(prepared, references, (), profile=study.profile, seconds=0.0, state=state, reporter=Silent())

    first = measured()
    assert measured() == first, "read"
    monkeypatch.setenv(INSTRUCTION_SET, usable[-1])
    second = measured()
    assert measured() == second, "read"
    for before, after in zip(first.references, second.references, strict=True):
        assert (before.latency_ms, before.latency_interval_ms) != (after.latency_ms, after.latency_interval_ms)
    again = measure_references(prepared, state=state, reporter=Silent())
    now = state.read(REFERENCES)
    assert known is not None and now is not None and now.key != known.key
    for reference, other in zip(references, again, strict=True):
        if reference.name != teacher_name_on(Runtime.ENGINE):
            assert reference == other, "float32 does not depend on it"
