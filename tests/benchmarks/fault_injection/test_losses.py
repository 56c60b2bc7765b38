# SPDX-License-Identifier: Apache-2.0
"""Claims about what the soak counts as lost; what it looks at are files that commands leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.fault_injection.losses import Losses
from runtime.atomic import write_json


def test_a_graduate_may_be_replaced_by_one_that_saw_more_and_by_no_other(tmp_path: Path) -> None:
    losses = Losses()

    def redone_after(n_tokens: int, **more: Any) -> int:
        document = {"training": {"n_tokens": n_tokens, **more}}
        path = tmp_path / "trial-0001" / "student" / "student.json"
        write_json(path, document | {"measured": len(more)}, durable=False)
        losses.watch_graduates(tmp_path)
        return losses.counts["graduates_redone"]

    assert redone_after(5_000, seconds=1.0) == 0
    assert redone_after(9_000, seconds=2.0) == 0
    assert redone_after(9_000, seconds=3.0) == 1
    assert redone_after(4_000, seconds=1.0) == 2


def test_what_the_final_measurement_adds_to_a_graduate_is_no_loss(tmp_path: Path) -> None:
    losses, path = Losses(), tmp_path / "trial-0001" / "student" / "student.json"
    for latency_ms in (None, 1.0):
        write_json(path, {"training": {"n_tokens": 5_000}, "latency_ms": latency_ms}, durable=False)
        losses.watch_graduates(tmp_path)
    assert losses.counts["graduates_redone"] == 0
