# SPDX-License-Identifier: Apache-2.0
"""Text files in a study's folder that say what went wrong with a trial or its graduation.

FOLDER/errors/trial-0007.txt    a traceback, what Ray said of a worker, or that a checkpoint was lost
"""

from __future__ import annotations

from pathlib import Path


def write_error(folder: Path, trial: str, details: str) -> None:
    """Replaces the trial's file in the study's folder; nothing is written if `details` is empty."""
    if details:
        _error_file(folder, trial).write_text(details, encoding="utf-8")


def append_error(folder: Path, trial: str, line: str) -> None:
    """Appends a line to the trial's file in the study's folder, which is created if missing."""
    with _error_file(folder, trial).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def read_error(folder: Path, trial: str, *, most_characters: int) -> str:
    """The end of the trial's file in the study's folder, in whole lines; empty if there is none."""
    try:
        text = (folder / "errors" / f"{trial}.txt").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
    return text if len(text) <= most_characters else text[-most_characters:].partition("\n")[2]


def _error_file(folder: Path, trial: str) -> Path:
    path = folder / "errors" / f"{trial}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
