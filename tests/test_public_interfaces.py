# SPDX-License-Identifier: Apache-2.0
"""What begins with an underscore in Ray, Optuna and MLflow changes without notice: only tests may use it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OTHERS = ("ray", "optuna", "mlflow")
FILES = sorted(
    file for room in ("spaces", "runtime", "trainers", "search", "benchmarks") for file in (ROOT / room).rglob("*.py")
)


def private_names(source: str) -> Iterator[str]:
    """Dotted names with a part that begins with an underscore, of what is imported from others, and their op codes."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
        for name in names:
            root, *parts = name.split(".")
            if root in OTHERS and any(part.startswith("_") and not part.startswith("__") for part in parts):
                yield name
        if isinstance(node, ast.Constant) and node.value == "op_code":
            yield "op_code"


@pytest.mark.parametrize(
    "source",
    [
        "import ray._private.worker",
        "from ray.train.v2._internal.exceptions import RayTrainError",
        "from optuna.storages.journal import _file",
        "import ray\nray._private.worker.global_worker",
        "log['op_code']",
    ],
)
def test_a_private_name_is_found(source: str) -> None:
    assert list(private_names(source))


def test_no_private_name_of_ray_optuna_or_mlflow_is_used() -> None:
    assert len(FILES) > 150
    found = {str(file.relative_to(ROOT)): names for file in FILES if (names := list(private_names(file.read_text())))}
    assert found == {}
