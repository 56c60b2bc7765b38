# SPDX-License-Identifier: Apache-2.0
"""The engine's build id changes with every native source and with the flags, and with nothing else."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BuildId = Callable[..., str]


def copy_sources(to: Path) -> Path:
    """A copy of what the engine is built from."""
    shutil.copytree(ROOT / "runtime" / "native", to / "runtime" / "native")
    shutil.copytree(ROOT / "tests" / "native", to / "tests" / "native")
    shutil.copy(ROOT / "CMakeLists.txt", to)
    return to


@pytest.fixture
def build_id(cmake: str, compiler: str) -> BuildId:
    """A function of sources, build folder and options: configures the build only if there are options, brings the id's
    source up to date as a build does, and returns the id."""

    def find(sources: Path, build: Path, *options: str) -> str:
        if options:
            configure = [cmake, "-S", str(sources), "-B", str(build), "-DUNDERSTUDY_SANITIZE=ON", *options]
            subprocess.run(configure, check=True, capture_output=True)  # needs neither Python nor nanobind
        subprocess.run([cmake, "--build", str(build), "--target", "build_id"], check=True, capture_output=True)
        (found,) = re.findall(r'return "([0-9a-f]{16})"', (build / "build_id.cpp").read_text())
        return str(found)

    return find


PLAIN = "-DCMAKE_CXX_FLAGS="


@pytest.mark.slow
def test_a_change_of_any_native_source_changes_the_id(build_id: BuildId, tmp_path: Path) -> None:
    sources, build = copy_sources(tmp_path / "sources"), tmp_path / "build"
    ids = [build_id(sources, build, PLAIN)]
    for name in ("kernels_avx2.cpp", "generic_product.h", "build_id.cmake", "../../CMakeLists.txt"):
        path = sources / "runtime" / "native" / name
        comment = "# changed" if path.suffix in {".cmake", ".txt"} else "// changed"
        path.write_text(f"{path.read_text('utf-8')}{comment}\n", "utf-8")
        ids.append(build_id(sources, build))
    (sources / "runtime" / "native" / "another.h").write_text("")
    ids.append(build_id(sources, build))
    (sources / "runtime" / "native" / "another.h").unlink()
    assert build_id(sources, build) == ids[-2]
    assert len(set(ids)) == len(ids)


@pytest.mark.slow
def test_the_id_depends_on_the_flags_but_not_on_the_folder(build_id: BuildId, tmp_path: Path) -> None:
    one, other = copy_sources(tmp_path / "one"), copy_sources(tmp_path / "other")
    plain = build_id(one, tmp_path / "build-one", PLAIN)
    assert build_id(other, tmp_path / "elsewhere" / "build-other", PLAIN) == plain
    assert build_id(one, tmp_path / "build-one", "-DCMAKE_CXX_FLAGS=-O0") != plain
    assert build_id(one, tmp_path / "build-one", PLAIN) == plain
