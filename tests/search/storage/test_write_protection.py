# SPDX-License-Identifier: Apache-2.0
"""A folder that must not be written is told as that; another reason for which sqlite opens no file is not."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from search.storage.write_protection import WriteProtectedError, write_protection_explained


def insert(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("create table t (x)")
        connection.commit()


def test_a_database_that_cannot_be_opened_in_a_folder_that_can_be_written_is_another_error(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="unable to open"), write_protection_explained(tmp_path):
        insert(tmp_path / "missing" / "mlflow.db")


@pytest.mark.parametrize("protected", ["folder", "database"])
def test_a_database_that_must_not_be_written_names_its_folder(protected: str, tmp_path: Path) -> None:
    folder, user = tmp_path / "store", os.geteuid()
    folder.mkdir()
    database = folder / "mlflow.db"
    if protected == "database":
        database.touch(mode=0o000)
    folder.chmod(0o777 if protected == "database" else 0o555)
    if user == 0:  # to root everything is permitted; another user must be able to enter the folders of tests
        for parent in folder.parents:
            parent.chmod(parent.stat().st_mode | 0o055)
        os.seteuid(65534)
    try:
        refused = pytest.raises(WriteProtectedError, match=f"writes to {folder}, which this user must not: unable to")
        with refused, write_protection_explained(folder):
            insert(database)
    finally:
        os.seteuid(user)
        folder.chmod(0o700)
