# SPDX-License-Identifier: Apache-2.0
"""Claims about the documents: links, names, commands and pictures are those of the code."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from spaces.study import parse_study

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "examples").glob("*.md")),
    *sorted(DOCS.rglob("*.md")),
]
CURRENT = [page for page in PAGES if DOCS / "log" not in page.parents and DOCS / "decisions" not in page.parents]
"""Pages that describe the code as it is; entries of the log and decisions keep the names of their day."""
PACKAGES = ("spaces", "runtime", "trainers", "search")


def name_of(page: Path) -> str:
    """A page's path in the project."""
    return str(page.relative_to(ROOT))


@cache
def source() -> str:
    """All of the code, README included."""
    files = [path for package in (*PACKAGES, "benchmarks") for path in (ROOT / package).rglob("*") if path.is_file()]
    texts = [path.read_text("utf-8") for path in files if path.suffix in {".py", ".h", ".cpp", ".html", ".yaml"}]
    return "\n".join([*texts, (ROOT / "README.md").read_text("utf-8")])


def anchors(page: Path) -> set[str]:
    """What a link may name after `#`: the headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), flags=re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", [page for page in PAGES if DOCS in page.parents], ids=name_of)
def test_every_page_is_reached_from_the_readme(page: Path) -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        current = waiting.pop()
        if current in seen or current.suffix != ".md":
            continue
        seen.add(current)
        links = re.findall(r"\]\(([^)#\s]+)", current.read_text("utf-8"))
        waiting += [(current.parent / link).resolve() for link in links if "://" not in link]
    assert page in seen


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    folders = "|".join((*PACKAGES, "benchmarks", "tests", "docs", "examples"))
    paths = re.findall(rf"`((?:{folders})/[\w./-]+)`", page.read_text("utf-8"))
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_every_dotted_name_of_a_page_is_a_module_or_in_one(page: Path) -> None:
    missing = []
    for name in re.findall(rf"`((?:{'|'.join(PACKAGES)}|benchmarks)\.[\w.]+)`", page.read_text("utf-8")):
        parts = name.split(".")
        module = ROOT / Path(*parts)
        if module.is_dir() or module.with_suffix(".py").is_file():
            continue
        holder = ROOT / Path(*parts[:-1])
        holder = holder / "__init__.py" if holder.is_dir() else holder.with_suffix(".py")
        if not holder.is_file() or not re.search(rf"\b{parts[-1]}\b", holder.read_text("utf-8")):
            missing.append(name)
    assert missing == []


def rows(page: Path, *, n_columns: int) -> list[list[str]]:
    """The rows of a page's tables of so many columns, without their heads."""
    lines = [line for line in page.read_text("utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    heads = {i for i, row in enumerate(cells[1:]) if set("".join(row)) <= set("-|")}
    return [row for i, row in enumerate(cells) if i not in heads and i - 1 not in heads and len(row) == n_columns]


def forms() -> list[tuple[str, str]]:
    """(class, file) of every form of a trial that is a class of ours."""
    found = []
    for form, where, *_ in rows(DOCS / "architecture.md", n_columns=4):
        if "Optuna's" not in form and "Ray Tune's" not in form:
            files = re.findall(r"`([^`]+)`", where)
            names = re.findall(r"`(\w+)`", form)
            found += [(name, files[min(i, len(files) - 1)]) for i, name in enumerate(names)]
    return found


@pytest.mark.parametrize(("name", "file"), forms())
def test_every_form_of_a_trial_is_a_class_of_its_file(name: str, file: str) -> None:
    assert re.search(rf"^(class )?{name}\b( =)?", (ROOT / file).read_text("utf-8"), flags=re.MULTILINE)


def test_the_table_has_the_forms_that_a_trial_is_known_to_take() -> None:
    names = {name for name, _ in forms()}
    assert {"TrialRecord", "TrialTask", "TrialActor", "Distillation", "GraduationState"} <= names


def picture_heights() -> dict[str, list[int]]:
    """For every name in bold of the picture, how far down it stands, package by package."""
    text = (DOCS / "architecture.svg").read_text("utf-8")
    package, found = "", dict[str, list[int]]()
    heights: dict[str, int] = {}
    for kind, y, name in re.findall(r'<text class="(package-name|name)" x="\d+" y="(\d+)">([^<]+)<', text):
        if kind == "package-name":
            package = name.rstrip("/")
        for part in name.split(", "):
            heights[f"{package}.{part}" if kind == "name" else package] = int(y)
    for key, height in heights.items():
        found.setdefault(key, []).append(height)
    return found


@pytest.mark.parametrize("package", ["search", "trainers"])
def test_the_picture_has_the_floors_that_imports_are_held_to(package: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract.get("containers") == [package])
    heights = picture_heights()
    floors = [{heights[f"{package}.{room.strip(' ()')}"][0] for room in floor.split("|")} for floor in layers]
    assert all(len(floor) == 1 for floor in floors)
    order = [next(iter(floor)) for floor in floors]
    assert order == sorted(order) and len(set(order)) == len(order)
    folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert {key.partition(".")[2] for key in heights if key.startswith(f"{package}.")} == folders


def test_the_picture_has_the_packages_from_top_to_bottom() -> None:
    heights = picture_heights()
    order = [heights[package][0] for package in ("search", "trainers", "runtime", "spaces")]
    assert order == sorted(order)


def terms() -> list[str]:
    """What the glossary defines."""
    return re.findall(r"^\| \*\*([^*]+)\*\*", (DOCS / "glossary.md").read_text("utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("term", terms())
def test_every_term_of_the_glossary_occurs_in_the_code_or_the_readme(term: str) -> None:
    pattern = re.sub(r"[ -]", r"[\\s_-]*", term)
    assert re.search(pattern, source(), flags=re.IGNORECASE)


def test_the_glossary_defines_a_term_once() -> None:
    assert len(terms()) == len(set(terms())) > 30


def test_the_study_of_the_readme_parses(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL)
    for name in ("sentences.txt.gz", "reviews.parquet"):
        (tmp_path / name).write_text("some sentences")
    assert parse_study(example, folder=tmp_path).name == "my-study"


def test_the_page_of_benchmarks_lists_each_of_them() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE))
    assert listed == {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    (makes,) = re.findall(r"for benchmark in ([\w ]+);", (ROOT / "Makefile").read_text("utf-8"))
    assert set(makes.split()) <= listed
