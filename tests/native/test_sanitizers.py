# SPDX-License-Identifier: Apache-2.0
"""The engine reads and writes only what is its own, whatever student and sentences it is given."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "fuzz"  # kept, as by `make fuzz`: a second run compiles what has changed
N_SEEDS = 200


@pytest.fixture
def sanitizing_compiler(compiler: str, tmp_path: Path) -> str:
    """The C++ compiler, if it has the sanitizers."""
    (tmp_path / "nothing.cpp").write_text("int main() {}")
    command = [compiler, "-fsanitize=address,undefined", "nothing.cpp", "-o", "nothing"]
    if subprocess.run(command, cwd=tmp_path, capture_output=True).returncode:
        pytest.skip(f"{compiler} has no address and undefined-behaviour sanitizers")
    return compiler


@pytest.mark.slow
@pytest.mark.usefixtures("sanitizing_compiler")
def test_random_students_run_clean_under_the_sanitizers(cmake: str) -> None:
    for command in (
        [cmake, "-S", str(ROOT), "-B", str(BUILD), "-DUNDERSTUDY_SANITIZE=ON"],
        [cmake, "--build", str(BUILD)],
        [str(BUILD / "fuzz_engine"), str(N_SEEDS)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr.replace("\r", "\n"))[-6000:]
    assert done.stdout == f"{N_SEEDS} seeds ran clean\n"
