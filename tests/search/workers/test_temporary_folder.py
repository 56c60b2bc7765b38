# SPDX-License-Identifier: Apache-2.0
"""Ray's temporary folder: refused at once exactly if Ray would refuse the sockets in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ray._private.utils import validate_socket_filepath

from search.study.preflight import check_cluster
from search.workers.cluster import require_startable
from search.workers.temporary_folder import require_temporary_folder
from spaces.errors import UserError

SESSION = f"ray/session_2026-11-27_19-08-04_585121_{os.getpid()}/sockets/plasma_store"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def ray_accepts(folder: str) -> bool:
    try:
        validate_socket_filepath(f"{folder}/{SESSION}")
    except OSError:
        return False
    return True


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("letter", ["x", "é"])
def test_a_folder_is_refused_exactly_if_ray_refuses_its_sockets(
    variable: str, letter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = 0
    for n in range(1, 90):
        folder = f"/tmp/{letter * n}"
        monkeypatch.setenv(variable, folder)
        if ray_accepts(folder):
            require_temporary_folder()
            continue
        refused += 1
        with pytest.raises(
            UserError, match=rf"must have at most \d\d bytes, .* at most 107, got \d+ bytes: {variable}="
        ):
            require_temporary_folder()
    assert 0 < refused < 89


def test_the_most_bytes_that_are_named_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp/" + "x" * 100)
    with pytest.raises(UserError, match=r"set RAY_TMPDIR to a short path") as refusal:
        require_temporary_folder()
    most = int(str(refusal.value).partition("at most ")[2].split()[0])
    monkeypatch.setenv("TMPDIR", "/tmp/" + "x" * (most - 5))
    require_temporary_folder()
    monkeypatch.setenv("TMPDIR", "/tmp/" + "x" * (most - 4))
    with pytest.raises(UserError):
        require_temporary_folder()


def test_rays_own_variable_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp/" + "x" * 100)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    require_temporary_folder()


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TMPDIR", "/proc")  # not even root can make a folder there
    with pytest.raises(UserError, match=r"must be able to write to its temporary folder: .* in /proc \(TMPDIR=/proc\)"):
        require_temporary_folder()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", "file")
    with pytest.raises(UserError, match="Not a directory in file"):
        require_temporary_folder()


def test_a_search_on_this_machine_checks_the_folder_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp/" + "x" * 100)
    for check in (check_cluster, require_startable):
        for address in (None, "local"):
            with pytest.raises(UserError, match="at most 107"):
                check(address)
    require_startable("127.0.0.1:6379")  # the cluster has folders of its own
