# SPDX-License-Identifier: Apache-2.0
"""What is recorded of the machine that trained a study's students."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from search.records.objective import COSINE
from search.storage.store import Store
from search.tracking.client import client_of, create_store
from search.tracking.names import RunParam
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
    recorded = provenance(Device.CPU)[RunParam.DEVICE]
    assert recorded == device_name(Device.CPU)
    assert isinstance(recorded, str) and recorded and unused_gpu not in recorded


def test_the_processor_is_named_as_the_system_names_it() -> None:
    information = Path("/proc/cpuinfo")
    if "model name" not in (text := information.read_text() if information.is_file() else ""):
        pytest.skip("this system does not name its processor there")
    assert f": {device_name(Device.CPU)}\n" in text


def test_a_trials_run_has_the_studys_device(tmp_path: Path, unused_gpu: str) -> None:
    store = create_store(Store(tmp_path / "store"))
    params = {RunParam.DEVICE: device_name(Device.CPU)}
    log = TrialLog(store, "devices", params=params, objective=COSINE)
    log.write(record(0))
    run = client_of(store).get_run(log.run_id("trial-0000"))
    assert run.data.params[RunParam.DEVICE] == device_name(Device.CPU)
