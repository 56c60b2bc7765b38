# SPDX-License-Identifier: Apache-2.0
"""The machine, the versions and the commit that numbers belong to."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from runtime.engine import instruction_sets
from trainers.measure.calibration import machine_name

COMPARED = ("numpy", "torch", "onnxruntime", "openvino")


def describe_machine() -> dict[str, Any]:
    """Machine, versions and commit as a JSON object."""
    return {
        "name": machine_name(),
        "instruction_sets": [each.name for each in instruction_sets() if each.usable],
        "versions": {name: version for name in COMPARED if (version := _version(name)) is not None},
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """None for a copy without version control."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
