# SPDX-License-Identifier: Apache-2.0
"""Claims about arrays that travel as paths."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from search.workers.mapped_array import MappedArray, by_path


def test_a_mapped_array_travels_as_its_path_and_arrives_equal(tmp_path: Path) -> None:
    values = np.arange(300_000, dtype=np.float16).reshape(-1, 3)
    values.tofile(tmp_path / "values.f16")
    mapped = by_path(np.memmap(tmp_path / "values.f16", np.float16, "r", shape=(90_000, 3)))
    sent = pickle.dumps(mapped, protocol=5)
    assert len(sent) < 1_000
    arrived = pickle.loads(sent)
    assert isinstance(arrived, MappedArray)
    np.testing.assert_array_equal(arrived, values[:90_000])


def test_a_part_of_a_mapped_array_travels_as_its_values(tmp_path: Path) -> None:
    values = np.arange(30, dtype=np.float16).reshape(-1, 3)
    values.tofile(tmp_path / "values.f16")
    mapped = by_path(np.memmap(tmp_path / "values.f16", np.float16, "r", shape=(10, 3)))
    assert mapped is not None
    for part in (mapped[2:5], mapped[[1, 7]], mapped[:, 1]):
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(part, protocol=5)), np.asarray(part))


def test_an_array_in_memory_stays_as_it_is() -> None:
    array = np.ones(3)
    assert by_path(array) is array
    assert by_path(None) is None
