# SPDX-License-Identifier: Apache-2.0
"""What is recorded of the machine that trained a study's students."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from search.storage.store import Store
from search.tracking.trial_runs import TrialLog, device_name, provenance
from spaces.study import Device
from tests.search.tiny_records import record


@pytest.fixture
def unused_gpu(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a GPU that torch finds, and on which nothing is computed."""
    name = "A GPU that nobody uses"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
    return name


def test_a_gpu_that_a_study_does_not_use_is_not_recorded(unused_gpu: str) -> None:
    recorded = provenance(Device.CPU)["device"]
    assert recorded == device_name(Device.CPU)
    assert isinstance(recorded, str) and recorded and unused_gpu not in recorded


def test_the_processor_is_named_as_the_system_names_it() -> None:
    information = Path("/proc/cpuinfo")
    if "model name" not in (text := information.read_text() if information.is_file() else ""):
        pytest.skip("this system does not name its processor there")
    assert f": {device_name(Device.CPU)}\n" in text


def test_a_trials_run_has_the_studys_device(tmp_path: Path, unused_gpu: str) -> None:
    store = Store(tmp_path / "store")
    store.create()
    log = TrialLog(store, "devices", facts={"device": device_name(Device.CPU)})
    log.write(record(0))
    run = store.client().get_run(log.run_id("trial-0000"))
    assert run.data.params["device"] == device_name(Device.CPU)
