# SPDX-License-Identifier: Apache-2.0
"""Claims about the project as a whole: its rooms, files, dependencies, documents and launcher file."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from spaces.student import StaticSpec, StudentSpec

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("spaces", "runtime", "trainers", "search")
NATIVE_SOURCES = sorted(
    path
    for folder in ("runtime", "tests")
    for path in (ROOT / folder / "native").iterdir()
    if path.suffix in {".cpp", ".h"}
)
WEB_ASSETS = sorted(path for path in (ROOT / "search").rglob("*") if path.suffix in {".js", ".css", ".html"})
SOURCES = sorted(path for room in (*ROOMS, "benchmarks", "examples") for path in (ROOT / room).rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SPDX = "SPDX-License-Identifier: Apache-2.0"
GUIDES = tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))


def project_files() -> list[Path]:
    """The files under version control, or all files of a copy without it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    hidden = {".git", ".venv", "__pycache__"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not hidden & set(path.relative_to(ROOT).parts)]


def test_every_text_file_names_its_licence() -> None:
    without_comments = {"LICENSE"}
    kinds = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".cfg", ".html", ".js", ".css", ".svg", ""}
    files = [path for path in project_files() if path.suffix in kinds and path.name not in without_comments]
    assert [str(path) for path in files if SPDX not in "\n".join(path.read_text("utf-8").splitlines()[:3])] == []


def test_the_licence_of_the_package_is_the_one_in_its_files() -> None:
    assert PYPROJECT["project"]["license"] == SPDX.split(": ")[1]
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_no_source_file_has_more_than_400_lines() -> None:
    files = [*SOURCES, *NATIVE_SOURCES, *WEB_ASSETS]
    assert [f"{path}: {n}" for path in files if (n := len(path.read_text("utf-8").splitlines())) > 400] == []


def test_the_sources_that_are_counted_are_there() -> None:
    assert {path.name for path in NATIVE_SOURCES} > {"student.cpp", "student.h", "fuzz_engine.cpp"}
    assert {path.suffix for path in WEB_ASSETS} == {".css", ".html", ".js"}


def test_no_file_is_named_after_nothing_in_particular() -> None:
    assert [path for path in SOURCES if path.stem in {"util", "utils", "common", "helpers", "misc"}] == []


def test_every_source_file_says_what_it_is() -> None:
    assert [path for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text("utf-8")))] == []


PICKLING = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def pickles(tree: ast.AST) -> list[str]:
    """What in a syntax tree could read or write a pickle."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name.split(".")[0] in PICKLING]
        elif isinstance(node, ast.Attribute) and node.attr in {"read_pickle", "to_pickle", "load_state_dict_from_url"}:
            found.append(node.attr)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "torch" and node.attr in {"load", "save"}:
                found.append(f"torch.{node.attr}")
        elif isinstance(node, ast.keyword) and node.arg in {"allow_pickle", "trust_remote_code"}:
            found += [] if isinstance(node.value, ast.Constant) and node.value.value is False else [f"{node.arg}=..."]
    return found


def test_nothing_reads_or_writes_a_pickle() -> None:
    assert {str(path): found for path in SOURCES if (found := pickles(ast.parse(path.read_text("utf-8"))))} == {}


@pytest.mark.parametrize(
    "line", ["import pickle", "from joblib import load", "torch.load(x)", "numpy.load(x, allow_pickle=True)"]
)
def test_the_search_for_pickles_finds_them(line: str) -> None:
    assert pickles(ast.parse(line))


def open_matches(tree: ast.AST) -> list[int]:
    """Lines of the `match` statements that silently do nothing for a value that no case names.

    A statement is closed if its last case takes everything: `case _: assert_never(x)` where the cases name a whole
    union or enum (mypy then reports a member that is missing), or a real default.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Match):
            last = node.cases[-1]
            takes_everything = isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None
            if not takes_everything or last.guard is not None:
                found.append(node.lineno)
    return found


def test_every_match_says_what_happens_to_a_value_that_no_case_names() -> None:
    assert {str(path): found for path in SOURCES if (found := open_matches(ast.parse(path.read_text("utf-8"))))} == {}


@pytest.mark.parametrize(
    ("last", "n_open"),
    [
        ("case B(): pass", 1),
        ("case B() | C(): pass", 1),
        ("case _ if x: pass", 1),
        ("case B() as b: pass", 1),
        ("case _: assert_never(x)", 0),
        ("case other: f(other)", 0),
    ],
)
def test_the_search_for_open_matches_finds_them(last: str, n_open: int) -> None:
    assert len(open_matches(ast.parse(f"match x:\n    case A(): pass\n    {last}"))) == n_open


REPLACES = {
    "runtime/atomic.py",  # the one place
    "search/tracking/client.py",  # a hard link refuses, as no rename does, where another command was faster
}


def replacements(tree: ast.AST) -> list[str]:
    """What in a syntax tree puts one file in the place of another, or makes a temporary file to do so."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil", "tempfile"):
            names = {alias.name for alias in node.names}
            found += sorted(names & {"replace", "rename", "renames", "link", "move", "mkstemp", "NamedTemporaryFile"})
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, owner = node.func.attr, node.func.value
        module = owner.id if isinstance(owner, ast.Name) else ""
        n_arguments = len(node.args) + len(node.keywords)
        is_path_method = name in ("rename", "hardlink_to") or (name == "replace" and n_arguments == 1)  # text takes two
        if is_path_method or f"{module}.{name}" in ("os.replace", "os.renames", "os.link", "shutil.move"):
            found.append(f"{module}.{name}")
        elif name in ("mkstemp", "NamedTemporaryFile"):
            found.append(name)
    return found


def test_files_are_replaced_in_one_place() -> None:
    found = {str(path.relative_to(ROOT)): replacements(ast.parse(path.read_text("utf-8"))) for path in SOURCES}
    assert {path for path, calls in found.items() if calls} == REPLACES


@pytest.mark.parametrize(
    "line",
    ["os.replace(a, b)", "a.rename(b)", "Path(a).replace(b)", "a.replace(target=b)", "from os import rename",
     "os.link(a, b)", "shutil.move(a, b)", "tempfile.mkstemp()", "tempfile.NamedTemporaryFile(delete=False)"],
)  # fmt: skip
def test_the_search_for_replacements_finds_them(line: str) -> None:
    assert replacements(ast.parse(line))


@pytest.mark.parametrize("line", ["text.replace('a', 'b')", "replace(spec, name='a')", "tempfile.TemporaryDirectory()"])
def test_the_search_for_replacements_finds_nothing_else(line: str) -> None:
    assert not replacements(ast.parse(line))


def test_the_rooms_keep_their_direction_and_their_imports() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    finished = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


SERVE_WITHOUT = ("torch", "ray", "mlflow", "optuna", "transformers", "datasets", "pyarrow", "scipy", "rich", "pandas")


def run_where_only_serving_is_installed(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process that has what `pip install understudy` gives, and no more."""
    prologue = f"""
        import sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {SERVE_WITHOUT!r}:
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        sys.meta_path.insert(0, Absent())
    """
    program = textwrap.dedent(prologue) + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_the_rooms_for_serving_import_without_the_rest() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for room in ("spaces", "runtime")
        for path in (ROOT / room).rglob("*.py")
    ]
    code = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"
    finished = run_where_only_serving_is_installed(code)
    assert finished.returncode == 0, finished.stderr


def test_a_student_is_served_where_only_serving_is_installed(tmp_path: Path) -> None:
    from tests.search.cli_world import WORDS, write_student

    spec = StudentSpec(vocabulary_size=len(WORDS), output_dim=8, static=StaticSpec())
    write_student(tmp_path / "student", spec, seed=0)
    (tmp_path / "text.txt").write_text("one sentence\nanother sentence\n")
    arguments = ["embed", str(tmp_path / "student"), str(tmp_path / "text.txt")]
    finished = run_where_only_serving_is_installed(f"from search.cli.main import main; sys.exit(main({arguments!r}))")
    assert finished.returncode == 0, finished.stderr
    assert np.load(tmp_path / "text.txt.npy").shape == (2, 8)


def test_a_command_that_needs_an_extra_says_which() -> None:
    finished = run_where_only_serving_is_installed(
        "from search.cli.main import main; sys.exit(main(['validate', 'quickstart']))"
    )
    assert finished.returncode == 2
    assert "pip install 'understudy[search]'" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_the_cluster_file_is_valid_for_rays_launcher() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["max_workers"] == len(config["provider"]["worker_ips"])
    assert all(commands for commands in (prepared["head_start_ray_commands"], prepared["worker_start_ray_commands"]))


def test_the_cluster_file_starts_its_workers_and_asks_for_a_token() -> None:
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    commands = (config[f"{kind}_start_ray_commands"] for kind in ("head", "worker"))
    head, worker = (next(command for command in some if "ray start" in command) for some in commands)
    assert "RAY_enable_autoscaler_v2=0" in head  # the newer autoscaler starts no workers for provider local
    assert all("RAY_AUTH_MODE=token" in command for command in (head, worker))
    for local in config["file_mounts"].values():
        assert local.startswith("~") or (ROOT / local).exists()


def test_the_cluster_file_copies_what_an_installation_is_built_from() -> None:
    mounted = set(yaml.safe_load((ROOT / "cluster.yaml").read_text())["file_mounts"].values())
    packages = set(PYPROJECT["tool"]["scikit-build"]["wheel"]["packages"])
    assert packages >= {"spaces", "runtime", "trainers", "search"}
    assert mounted >= packages | {"Makefile", "pyproject.toml", "constraints.txt", "CMakeLists.txt"}
    assert mounted >= {PYPROJECT["project"]["readme"], *PYPROJECT["project"]["license-files"]}


def test_constraints_are_names_and_versions_only() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.]*", line)] == []


def test_every_dependency_is_pinned_within_its_range() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(item for extra in extras for item in extra)]
    for requirement in map(Requirement, wanted):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not pinned"
        assert requirement.specifier.contains(version), f"{requirement} but {version}"


def test_every_package_that_is_imported_is_a_dependency() -> None:
    project = PYPROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    distributions = {re.split(r"[^A-Za-z0-9_-]", item)[0].lower().replace("-", "_") for item in wanted}
    provided = {"yaml": "pyyaml"}
    imported = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add((node.module or "").split(".")[0])
    third_party = imported - {*ROOMS, "benchmarks", "tests"} - sys.stdlib_module_names
    assert {name for name in third_party if provided.get(name, name) not in distributions} == set()


def test_ci_runs_the_tests_the_way_people_do() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()


def documented(pattern: str, *names: str) -> set[str]:
    """What the pattern's group matches in the code of these documents."""
    text = "\n".join((ROOT / name).read_text("utf-8") for name in names)
    code = re.findall(r"```.*?```|`[^`\n]+`", text, flags=re.DOTALL)
    return {found for part in code for found in re.findall(pattern, part)}


def test_every_command_of_the_documents_exists_and_one_page_has_all_of_them() -> None:
    from search.cli.parser import build_parser

    actions = build_parser()._subparsers._group_actions  # type: ignore[union-attr]
    (commands,) = (set(action.choices) for action in actions if action.choices)  # type: ignore[arg-type]
    pattern = r"\bunderstudy ([a-z]+)\b(?!=)"
    assert documented(pattern, "docs/commands.md") == commands
    assert documented(pattern, "README.md", "CONTRIBUTING.md", *GUIDES) <= commands


def test_every_make_target_of_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"search", "test"} <= documented(r"\bmake ([a-z]+)\b", "README.md") <= targets
    assert documented(r"\bmake ([a-z]+)\b", "CONTRIBUTING.md", *GUIDES) <= targets


def test_the_tree_of_the_architecture_names_files_that_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    (tree,) = re.findall(r"<!-- tree -->\n```\n(.*?)```", page, flags=re.DOTALL)
    folder = ROOT
    for line in tree.splitlines():
        names = re.split(r"\s{2,}", line.strip())[0].split()
        if not line.startswith(" ") and names and names[0].endswith("/"):
            folder = ROOT / names[0]
            names = names[:1]
            assert folder.is_dir(), line
            continue
        base = folder if line.startswith(" ") else ROOT
        assert [name for name in names if not (base / name).exists()] == [], line


def test_the_presets_ship_with_the_package() -> None:
    from spaces.study import load_study, preset_names

    assert "quickstart" in preset_names()
    for name in preset_names():
        assert load_study(name).name
    assert "spaces" in PYPROJECT["tool"]["scikit-build"]["wheel"]["packages"]


def test_the_functions_for_notebooks_are_there_and_import_nothing_before_they_are_used() -> None:
    import search

    assert all(getattr(search, name).__name__ == name for name in search.__all__)
    code = "import sys, search; print(len([name for name in sys.modules if name.startswith('search.')]))"
    finished = run_where_only_serving_is_installed(code)
    assert finished.stdout.strip() == "0", finished.stderr
