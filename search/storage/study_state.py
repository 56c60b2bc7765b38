# SPDX-License-Identifier: Apache-2.0
"""Small facts of a study that must survive its command: one JSON file each in the study's folder, written whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.storage.atomic import read_json, write_json
from search.storage.store import Store
from spaces.study.spec import StudySpec

CALIBRATION = "calibration"
"""The fact that holds the latencies which the study's predictor was fitted to: the cache may lose them."""

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

    def read(self, name: str) -> dict[str, Any] | None:
        """The fact of this name; None if it was never written, or not by this version."""
        return read_json(self.folder / f"{name}.json")

    def write(self, name: str, document: Mapping[str, Any]) -> None:
        """Replace the fact: after a crash the file holds the old or the new one."""
        write_json(self.folder / f"{name}.json", document)

    def claim(self, study: StudySpec) -> None:
        """Write the study down, or check that what is there is the same study.

        Trials, time, workers, seed and graduation may change from command to command. Raises ValueError if what
        decides the meaning of earlier trials changed: teachers, corpus, profile, space, rungs.
        """
        now = study.to_json()
        before = self.read("study")
        if before is not None:
            changed = sorted(
                key for key in {*now, *before} if key not in _FREE and before.get(key) != _plain(now.get(key))
            )
            if before.get("search", {}).get("rungs") != list(study.search.rungs):
                changed.append("search.rungs")
            if changed:
                raise ValueError(
                    f"the study {study.name} is in this store already with another {', '.join(changed)}, so its trials "
                    "do not compare; search under another name (--name) or in another store (--store)"
                )
        self.write("study", now)


def latest_study(store: Store) -> str:
    """The study that a command was given for last. Raises ValueError if there is none."""
    found = list((store.root / "studies").glob("*/study.json"))
    if not found:
        raise ValueError(
            f"there is no study in {store.root}; run `understudy search` first, or name the store with --store"
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent.name


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
