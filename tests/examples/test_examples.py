# SPDX-License-Identifier: Apache-2.0
"""Every example does what it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from search.cli.parser import build_parser
from tests.search.cli_world import make_bench

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def run(command: list[str], *, folder: Path, **variables: str) -> str:
    """What a command prints, run in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_every_example_is_run_here() -> None:
    text = Path(__file__).read_text("utf-8")
    files = [path.name for path in EXAMPLES.iterdir() if path.is_file()]
    assert [name for name in files if f'"{name}"' not in text] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_own_teacher_is_searched_exported_and_used(tmp_path: Path) -> None:
    printed = run([sys.executable, str(EXAMPLES / "own_teacher.py"), str(tmp_path / "own")], folder=tmp_path)
    assert "| teacher |" in printed and "vectors of shape (2, 32)" in printed
    assert {"student.json", "model.safetensors", "tokenizer.json"} == {
        path.name for path in (tmp_path / "own" / "student").iterdir()
    }
    assert (tmp_path / "own" / "report.html").stat().st_size > 10_000


def test_the_optimiser_alone_finds_a_front_and_saves_epochs(tmp_path: Path) -> None:
    printed = run([sys.executable, str(EXAMPLES / "optimiser.py")], folder=tmp_path)
    (counts,) = re.findall(r"40 trials, (\d+) of them complete; (\d+) of (\d+) epochs", printed)
    n_complete, n_epochs, n_all = map(int, counts)
    assert 5 <= n_complete < 40 and n_epochs < n_all
    sizes, errors = zip(*re.findall(r"^ *([\d,]+) weights  error (\d\.\d+)", printed, re.M), strict=True)
    assert len(sizes) >= 3
    assert [float(error) for error in errors] == sorted((float(error) for error in errors), reverse=True)


@pytest.mark.slow
def test_the_notebook_runs_on_a_store_with_a_front(tmp_path: Path) -> None:
    bench = make_bench(tmp_path)
    notebook = json.loads((EXAMPLES / "front.ipynb").read_text("utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    program = tmp_path / "cells.py"
    program.write_text("\n\n".join(cells))
    printed = run([sys.executable, str(program)], folder=tmp_path, UNDERSTUDY_STORE=str(bench.store.root))
    assert "toy: 2 students of tiny" in printed
    assert "trial-0002: 2 ms" in printed
    assert "(2, 16) float32" in printed
    assert "a vector of 16 numbers" in printed
    assert (tmp_path / "front.html").stat().st_size > 10_000


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = json.loads((EXAMPLES / "front.ipynb").read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_the_commands_of_the_cluster_page_are_those_of_the_program_and_of_the_cluster_file() -> None:
    blocks = "\n".join(re.findall(r"```\n(.*?)```", (EXAMPLES / "cluster.md").read_text("utf-8"), flags=re.DOTALL))
    searches = re.findall(r"understudy (search [^'\n#]*)", blocks)
    assert len(searches) == 3
    for line in searches:
        options = build_parser().parse_args(shlex.split(line))
        assert options.address is not None
    in_file = {line.lstrip("# ").split("#")[0].split("'")[0].strip() for line in cluster_lines()}
    for line in re.findall(r"^ray [^'#\n]*", blocks, flags=re.MULTILINE):
        assert line.strip() in in_file
    assert yaml.safe_load((ROOT / "cluster.yaml").read_text())["cluster_name"] == "understudy"


def cluster_lines() -> list[str]:
    """The lines of the cluster file."""
    return (ROOT / "cluster.yaml").read_text("utf-8").splitlines()
