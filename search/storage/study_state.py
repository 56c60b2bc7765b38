# SPDX-License-Identifier: Apache-2.0
"""Facts of a study that must survive its command: one JSON file each in the study's folder, written whole.

A fact is a typed value. Its file carries a format number, so that a newer version's is refused instead of misread; one
without a number is from before there were any, and reads as format 1.
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
class Fact(Generic[T]):
    """What is known of a study under one name: how a value becomes a JSON object, and an object a value."""

    name: str
    """Of the file, without its suffix."""
    to_json: Callable[[T], Mapping[str, Any]]
    """The object of a value."""
    from_json: Callable[[Mapping[str, Any]], T]
    """The value of an object; whatever it raises, the file is broken."""
    format: int = 1
    """Of the objects that `to_json` returns; `from_json` reads this one and all before."""
    durable: bool = True
    """Whether it survives a power failure (`runtime.atomic`)."""


def _calibration(document: Mapping[str, Any]) -> Calibration:
    from trainers.measure.calibration import Calibration  # torch, which those who look on do not need

    return Calibration.from_json(document.get("calibration", document))  # before there were facts, it was the file


STUDY: Fact[StudySpec] = Fact(name="study", to_json=StudySpec.to_json, from_json=stored_study)
"""The study as the last command was given it."""
CALIBRATION: Fact[Calibration] = Fact(
    name="calibration", to_json=lambda value: {"calibration": value.to_json()}, from_json=_calibration
)
"""The latencies which the study's predictor was fitted to: the cache may lose them."""

_FREE = ("search", "graduation", "initial_points")  # a study may change these and go on; rungs are checked by name


@dataclass(frozen=True, slots=True)
class StudyState:
    """The facts in `folder`; making the value touches no disk."""

    folder: Path
    """The study's folder in its store."""

    @classmethod
    def of(cls, store: Store, study: str) -> StudyState:
        """The facts of a study of a store."""
        return cls(store.study_folder(study))

    def path(self, fact: Fact[Any]) -> Path:
        """The fact's file."""
        return self.folder / f"{fact.name}.json"

    def read(self, fact: Fact[T]) -> T | None:
        """The value of a fact; None if it was never written, or its file is broken.

        Raises ValueError if a newer version wrote it in a format that this one does not know.
        """
        document = read_json(self.path(fact))
        if document is None:
            return None
        require_format(document, fact.format, what=str(self.path(fact)))
        try:
            return fact.from_json(document)
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def write(self, fact: Fact[T], value: T) -> None:
        """Replace the fact: after a crash the file holds the old or the new one."""
        write_json(self.path(fact), {KEY: fact.format, **fact.to_json(value)}, durable=fact.durable)

    def claim(self, study: StudySpec) -> None:
        """Write the study down, or check that what is there is the same study.

        Trials, time, workers, seed and graduation may change from command to command. Raises ValueError if what
        decides the meaning of earlier trials changed: teachers, corpus, profile, space, rungs.
        """
        before = self.read(STUDY)
        if before is None and read_json(self.path(STUDY)) is not None:
            raise UserError(
                f"a study goes on as it began, and {self.path(STUDY)} does not hold one that this version can read; "
                "search under another name (--name) or in another store (--store)"
            )
        if before is not None:
            names = [part.name for part in fields(StudySpec) if part.name not in _FREE]
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
    """The study that a command was given for last. Raises ValueError if there is none."""
    found = list((store.root / "studies").glob("*/study.json"))
    if not found:
        raise UserError(
            f"there is no study in {store.root}; run `understudy search` first, or name the store with --store"
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent.name
