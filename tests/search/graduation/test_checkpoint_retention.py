# SPDX-License-Identifier: Apache-2.0
"""Claims about which checkpoints stay on the disk."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from search.graduation.checkpoint_retention import N_SPARE_CHECKPOINTS, CheckpointKeeper, with_existing_checkpoints
from search.graduation.select import choose_graduates
from search.records.objective import COSINE
from search.records.trial import TrialRecord, TrialState
from tests.search.graduation.test_select import record_of


def saved(folder: Path, number: int, latency_ms: float, cosine: float, **changes: object) -> TrialRecord:
    """A record whose checkpoint is there."""
    checkpoint = folder / f"trial-{number:04d}" / "rung-2"
    checkpoint.mkdir(parents=True)
    return record_of(number, latency_ms, cosine, checkpoint=checkpoint, **changes)


points = st.lists(st.tuples(st.floats(0.1, 10.0), st.floats(0.1, 0.99), st.integers(0, 3)), min_size=1, max_size=40)


@settings(deadline=None)
@given(points, st.integers(2, 6))
def test_whoever_graduates_still_has_its_checkpoint(
    tmp_path_factory: object, found: list[tuple[float, float, int]], most: int
) -> None:
    folder = tmp_path_factory.mktemp("trials")  # type: ignore[attr-defined]
    keeper, records = CheckpointKeeper(max_students=most, objective=COSINE), []
    for number, (latency_ms, cosine, n_layers) in enumerate(found):
        records.append(saved(folder, number, latency_ms, cosine, n_layers=n_layers))
        keeper.trial_ended(records[-1])
    left = with_existing_checkpoints(records)
    assert sum(record.checkpoint is not None for record in left) <= most + N_SPARE_CHECKPOINTS
    chosen = choose_graduates(left, max_students=most, objective=COSINE)
    assert chosen
    fastest = min(records, key=lambda record: (record.predicted_latency_ms, -record.fidelity.cosine))  # type: ignore[union-attr]
    best = max(records, key=lambda record: (record.fidelity.cosine, -record.predicted_latency_ms))  # type: ignore[operator,union-attr]
    points_of = {(record.predicted_latency_ms, record.fidelity.cosine) for record in chosen if record.fidelity}
    for end in (fastest, best):
        assert end.fidelity is not None
        assert (end.predicted_latency_ms, end.fidelity.cosine) in points_of


def test_checkpoints_of_interrupted_trials_are_left_alone(tmp_path: Path) -> None:
    keeper = CheckpointKeeper(max_students=1, objective=COSINE)
    interrupted = saved(tmp_path, 0, 5.0, 0.1, state=TrialState.INTERRUPTED)
    keeper.trial_ended(interrupted)
    for number in range(1, 12):
        keeper.trial_ended(saved(tmp_path, number, 1.0 / number, 1.0 - 0.5 / number))
    assert with_existing_checkpoints([interrupted]) == [interrupted]
