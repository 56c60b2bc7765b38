# SPDX-License-Identifier: Apache-2.0
"""What the tests of the engine's build need from the machine."""

import os
import shutil
import sys
from pathlib import Path

import pytest


@pytest.fixture
def cmake() -> str:
    """CMake's path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("cmake", path=path)
    if found is None:
        pytest.skip("cmake is missing, so the engine cannot be built")
    return found


@pytest.fixture
def compiler() -> str:
    """The C++ compiler that CMake takes."""
    found = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if found is None:
        pytest.skip("there is no C++ compiler to build the engine with")
    return found
