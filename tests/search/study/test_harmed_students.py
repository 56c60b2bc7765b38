# SPDX-License-Identifier: Apache-2.0
"""Claims about students that training makes worse: they are told and not registered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from search.storage.store import Store
from search.study.run import run_search
from search.trials.journal import read_trials
from spaces.errors import UserError
from tests.search.reporters import Heard
from tests.search.tiny_study import tiny_study

# Ray Train 2.60 uses what Ray Data 2.60 deprecates.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning:ray.data.context")]


def test_students_that_training_made_worse_are_not_registered(tmp_path: Path) -> None:
    study = tiny_study(tmp_path / "study")
    fixed = {"learning_rate": 0.5, "n_layers": 2, "static_path": False}
    domains = {name: domain for name, domain in study.space.domains.items() if name not in fixed}
    space = replace(study.space, domains=domains, fixed={**study.space.fixed, **fixed})
    study = replace(study, space=space, initial_points=())
    store, heard = Store(tmp_path / "store"), Heard()
    with pytest.raises(UserError, match="training made every student of tiny worse than it was before; lower"):
        run_search(study, store=store, progress=heard)
    records = {record.name: record for record in read_trials(store.study_folder(study.name), study.name)}
    worse = [line for line in heard.lines if "is not registered" in line]
    assert worse
    for line in worse:
        untrained = records[line.split()[0]].untrained
        assert untrained is not None and f"a fidelity of {untrained.cosine:.4f} before training" in line
