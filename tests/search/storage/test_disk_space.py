# SPDX-License-Identifier: Apache-2.0
"""Claims about a full disk. /dev/full is one; a limit on files' sizes cuts a line in two, as a real one does."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import optuna
import pytest

from search.records.outcomes import OutcomeKind
from search.storage.disk_space import DiskFullError, disk_full_explained, is_disk_full, require_disk_space
from search.trials.journal import open_storage
from search.workers.failure import failure_of
from spaces.cost import cost
from tests.search.full_disk import largest_file
from tests.search.toy_search import TEACHER


def write_text() -> None:
    Path("/dev/full").write_text("a")


def write_array() -> None:
    with open("/dev/full", "wb") as file:
        np.save(file, np.zeros(100_000), allow_pickle=False)


def write_table() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("pragma max_page_count = 2")
        connection.execute("create table a (b)")
        connection.execute("insert into a values (?)", ("c" * 100_000,))


@pytest.mark.parametrize("write", [write_text, write_array, write_table])
def test_every_writer_that_finds_the_disk_full_is_understood(write, tmp_path) -> None:
    message = rf"no space left in {tmp_path} \([0-9.,]+ MB free\): free some and run the command again; everything"
    with pytest.raises(DiskFullError, match=message), disk_full_explained(tmp_path):
        write()


def test_a_full_disk_is_understood_behind_other_errors() -> None:
    try:
        try:
            write_text()
        except OSError as error:
            raise RuntimeError("graduation ended") from error
    except RuntimeError as error:
        assert is_disk_full(error)
        assert failure_of(error).kind is OutcomeKind.NO_SPACE


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ValueError("no room for this"), KeyError(28)])
def test_other_errors_stay_as_they_are(error, tmp_path) -> None:
    with pytest.raises(type(error)) as raised, disk_full_explained(tmp_path):
        raise error
    assert raised.value is error


def test_a_search_wants_space_for_one_student_a_worker(tmp_path) -> None:
    require_disk_space(tmp_path, TEACHER, n_workers=2)
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    with pytest.raises(DiskFullError, match="free some, or choose another folder"):
        require_disk_space(tmp_path, TEACHER, n_workers=2 + free // cost(TEACHER).n_bytes)


@pytest.mark.parametrize("n_bytes", [0, 1, 40, 90])
def test_a_journal_whose_disk_was_full_for_a_while_holds_all_else_and_no_half_line(tmp_path, n_bytes: int) -> None:
    journal = tmp_path / "trials.journal"
    study = optuna.create_study(study_name="toy", storage=open_storage(tmp_path))
    study.set_user_attr("before", 1)
    whole = journal.read_bytes()
    with largest_file(len(whole) + n_bytes), pytest.raises(OSError):
        study.set_user_attr("during", "x" * 200)
    assert journal.read_bytes() == whole
    study.set_user_attr("after", 2)
    again = optuna.load_study(study_name="toy", storage=open_storage(tmp_path))
    assert again.user_attrs == study.user_attrs == {"before": 1, "after": 2}
