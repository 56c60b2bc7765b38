# SPDX-License-Identifier: Apache-2.0
"""The corpus `installed-docs`: English prose of Python's topics and of the installed packages' docstrings.

Nothing is imported but `pydoc_data.topics`. Docstrings are found lexically: a triple-quoted literal that opens a
line after a line that ends with a colon, or that opens the file. Against `ast.parse` this finds the same docstrings
but for a few per cent (tests/trainers/text/test_installed_docs.py), in a thirtieth of the time. The same files give the
same sentences.

The work is done by processes of this module (`python -m trainers.text.installed_docs`): unlike a spawned pool they do
not import the caller's main module again, so it works from scripts, notebooks and Ray drivers alike.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runtime.signals import end_with_parent
from trainers.text.prose import sentences

EXTRACTION_VERSION = 1  # raised when the same files give other sentences
MAX_FILE_BYTES = 1_000_000  # larger files are generated tables
GROUPS_PER_PROCESS = 4  # so that no process waits long for the slowest
TOPICS = "pydoc_data.topics"

_QUOTES = re.compile(r"\"\"\"|'''")
_SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages"})


def installed_docs(*, n_processes: int | None = None) -> list[str]:
    """Every distinct English sentence of the installed documentation, sorted.

    `n_processes`: None for one per CPU that this process may use.
    """
    files = [path for path, _ in _python_files()]
    n_groups = GROUPS_PER_PROCESS * (n_processes or _n_cpus())
    groups = [[TOPICS, *files[0::n_groups]], *(files[index::n_groups] for index in range(1, n_groups))]
    with ThreadPoolExecutor(n_processes or _n_cpus()) as executor:
        found = list(executor.map(_run_process, groups))
    return sorted({sentence for group in found for sentence in group})


def installed_docs_identity() -> str:
    """A digest of what `installed_docs` would read: Python's version and every file's relative path and size."""
    digest = hashlib.sha256(f"{EXTRACTION_VERSION} {sys.version_info[:2]}".encode())
    roots = _roots()
    for path, n_bytes in _python_files():
        name = next(path[len(root) :] for root in reversed(roots) if path.startswith(root))
        digest.update(f"{name}\0{n_bytes}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def docstrings(source: str) -> Iterator[str]:
    """The docstrings of a Python source text, found lexically, their escapes left as they are written."""
    position = 0
    while opening := _QUOTES.search(source, position):
        closing = source.find(opening[0], opening.end())
        if closing < 0:
            return
        if _opens_docstring(source, opening.start()):
            yield source[opening.end() : closing]
        position = closing + 3


def _opens_docstring(source: str, start: int) -> bool:
    line_start = source.rfind("\n", 0, start) + 1
    if source[line_start:start].strip().lower() not in ("", "r", "u"):
        return False
    while line_start:
        previous_start = source.rfind("\n", 0, line_start - 1) + 1
        previous = source[previous_start : line_start - 1].strip()
        if previous and not previous.startswith("#"):
            return previous.endswith(":") or (":" in previous and previous.partition("#")[0].rstrip().endswith(":"))
        line_start = previous_start
    return True


def _roots() -> list[str]:
    """The folders of the standard library and of the installed packages, each with a separator at its end."""
    paths = sysconfig.get_paths()
    folders = (os.path.realpath(paths[key]) for key in ("stdlib", "purelib", "platlib"))
    return list(dict.fromkeys(os.path.join(folder, "") for folder in folders))


def _python_files() -> list[tuple[str, int]]:
    """(path, bytes) of every Python file of a reasonable size, in a fixed order."""
    files = []
    for root in _roots():
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = sorted(name for name in subfolders if name not in _SKIPPED_FOLDERS)
            for name in sorted(names):
                if name.endswith(".py"):
                    path = os.path.join(folder, name)
                    if os.path.isfile(path) and (n_bytes := os.path.getsize(path)) <= MAX_FILE_BYTES:
                        files.append((path, n_bytes))
    return files


def _run_process(group: Sequence[str]) -> list[str]:
    """The sentences of some files, found by another process."""
    folder = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))}
    finished = subprocess.run(
        [sys.executable, "-P", "-X", "utf8", "-m", "trainers.text.installed_docs"],  # -P: not the current folder
        input="\0".join(group).encode("utf-8", "surrogateescape"),
        env=environment,
        capture_output=True,
        check=False,
    )
    if finished.returncode:
        reason = finished.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise RuntimeError(f"reading the installed documentation failed in a process of its own: {reason}")
    return finished.stdout.decode("ascii").splitlines()


def _documentation(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        if path == TOPICS:
            yield from importlib.import_module(TOPICS).topics.values()
            continue
        with open(path, "rb") as file:
            yield from docstrings(file.read().decode("utf-8", "replace"))


def _n_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _main() -> None:
    """Read file names from the standard input, separated by NUL, and print their distinct sentences, one a line."""
    end_with_parent()
    paths = sys.stdin.buffer.read().decode("utf-8", "surrogateescape").split("\0")
    documentation = set(_documentation(filter(None, paths)))
    for sentence in {sentence for text in documentation for sentence in sentences(text)}:
        print(sentence)


if __name__ == "__main__":
    _main()
