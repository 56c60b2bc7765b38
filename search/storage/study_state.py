# SPDX-License-Identifier: Apache-2.0
"""State of a study that outlives a command: typed values, each in a JSON file of the study's folder.

Files are replaced atomically. Each holds a format number, so that a newer format is refused instead of misread; a file
without one was written before format numbers, and is read as format 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from runtime.atomic import read_json, write_json
from search.storage.store import Store
from spaces.errors import UserError
from spaces.stored import KEY, require_format
from spaces.study.spec import StudySpec
from spaces.study.stored import stored_study

if TYPE_CHECKING:
    from trainers.measure.calibration import Calibration

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFile(Generic[T]):
    """A named value of a study's state, with its conversion to and from a JSON object."""

    name: str
    """Name of the file, without its suffix."""
    to_json: Callable[[T], Mapping[str, Any]]
    """Converts a value to its JSON object."""
    from_json: Callable[[Mapping[str, Any]], T]
    """Converts a JSON object to its value; if it raises, the file counts as broken."""
    format: int = 1
    """Format number of the objects that `to_json` returns; `from_json` reads this format and all before."""
    durable: bool = True
    """Whether the file survives a power failure (`runtime.atomic`)."""


def _calibration(document: Mapping[str, Any]) -> Calibration:
    from trainers.measure.calibration import Calibration  # imports torch, which `understudy watch` does not need

    return Calibration.from_json(document.get("calibration", document))  # older files hold the calibration itself


STUDY: StateFile[StudySpec] = StateFile(name="study", to_json=StudySpec.to_json, from_json=stored_study)
"""The study as the last command was given it."""
CALIBRATION: StateFile[Calibration] = StateFile(
    name="calibration", to_json=lambda value: {"calibration": value.to_json()}, from_json=_calibration
)
"""The latencies that the study's predictor was fitted to; a copy, because the cache may be deleted."""

# May change between commands; rungs, a part of `search`, are checked separately.
_CHANGEABLE = ("search", "graduation", "initial_points")


@dataclass(frozen=True, slots=True)
class StudyState:
    """The state in `folder`; constructing it does not access the disk."""

    folder: Path
    """The study's folder in its store."""

    @classmethod
    def of(cls, store: Store, study: str) -> StudyState:
        """The state of a study in a store."""
        return cls(store.study_folder(study))

    def path(self, file: StateFile[Any]) -> Path:
        """The file of a value."""
        return self.folder / f"{file.name}.json"

    def read(self, file: StateFile[T]) -> T | None:
        """The stored value; None if it was never written, or its file is broken.

        Raises ValueError if a newer version wrote it in a format that this one does not know.
        """
        document = read_json(self.path(file))
        if document is None:
            return None
        require_format(document, file.format, what=str(self.path(file)))
        try:
            return file.from_json(document)
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def write(self, file: StateFile[T], value: T) -> None:
        """Replaces the stored value; after a crash the file holds the old or the new one."""
        write_json(self.path(file), {KEY: file.format, **file.to_json(value)}, durable=file.durable)

    def claim(self, study: StudySpec) -> None:
        """Writes the study, after checking that the stored one, if any, is the same.

        Trials, time, workers, seed and graduation may change from command to command. Raises ValueError if what
        decides the meaning of earlier trials changed: teachers, corpus, profile, space, rungs.
        """
        before = self.read(STUDY)
        if before is None and read_json(self.path(STUDY)) is not None:
            raise UserError(
                f"a study is continued as it began, and {self.path(STUDY)} holds no study that this version can read; "
                "search under another name (--name) or in another store (--store)"
            )
        if before is not None:
            names = [part.name for part in fields(StudySpec) if part.name not in _CHANGEABLE]
            changed = [name for name in names if getattr(before, name) != getattr(study, name)]
            if before.search.rungs != study.search.rungs:
                changed.append("search.rungs")
            if changed:
                raise UserError(
                    f"the study {study.name} is in this store already with another {', '.join(changed)}, so its trials "
                    "do not compare; search under another name (--name) or in another store (--store)"
                )
        self.write(STUDY, study)


def latest_study(store: Store) -> str:
    """Name of the study that a command ran last. Raises ValueError if there is none."""
    found = list((store.root / "studies").glob("*/study.json"))
    if not found:
        raise UserError(
            f"there is no study in {store.root}; run `understudy search` first, or name the store with --store"
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent.name
