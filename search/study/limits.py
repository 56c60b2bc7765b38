# SPDX-License-Identifier: Apache-2.0
"""The limits with which a study's search, or the whole study, was completed: different ones mean that work is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.storage.study_state import StateFile
from spaces.study.spec import GraduationSpec, SearchSpec, StudySpec, section_to_json
from spaces.study.stored import stored_section


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedLimits:
    """The limits of a study that may be raised to continue it after it is complete."""

    search: SearchSpec
    """Trials, time budget, rungs, workers."""
    graduation: GraduationSpec
    """Number of students and their training tokens."""

    @classmethod
    def of(cls, study: StudySpec) -> RequestedLimits:
        """The limits of a study."""
        return cls(search=study.search, graduation=study.graduation)

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `from_json` reads."""
        return {"search": section_to_json(self.search), "graduation": section_to_json(self.graduation)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RequestedLimits:
        """The value of an object that `to_json` returned."""
        search = stored_section(SearchSpec, document["search"])
        return cls(search=search, graduation=stored_section(GraduationSpec, document["graduation"]))


SEARCHED: StateFile[SearchSpec] = StateFile(
    name="search",
    to_json=lambda search: {"search": section_to_json(search)},
    from_json=lambda document: stored_section(SearchSpec, document["search"]),
)
"""The search section with which the search for trials last finished."""
COMPLETE: StateFile[RequestedLimits] = StateFile(
    name="complete", to_json=RequestedLimits.to_json, from_json=RequestedLimits.from_json
)
"""The limits with which all steps were completed, registration included."""
