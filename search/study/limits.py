# SPDX-License-Identifier: Apache-2.0
"""The limits that a study asked for when its search, or all of it, came to its end: raised ones mean to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.storage.study_state import StateFile
from spaces.study.spec import GraduationSpec, SearchSpec, StudySpec, section_to_json
from spaces.study.stored import stored_section


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedLimits:
    """What a command may raise to go further with a study that is complete."""

    search: SearchSpec
    """Trials, time, rungs."""
    graduation: GraduationSpec
    """Students and their tokens."""

    @classmethod
    def of(cls, study: StudySpec) -> RequestedLimits:
        """Those of a study."""
        return cls(search=study.search, graduation=study.graduation)

    def to_json(self) -> dict[str, Any]:
        """The object of the fact."""
        return {"search": section_to_json(self.search), "graduation": section_to_json(self.graduation)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RequestedLimits:
        """The value of the fact's object."""
        search = stored_section(SearchSpec, document["search"])
        return cls(search=search, graduation=stored_section(GraduationSpec, document["graduation"]))


SEARCHED: StateFile[SearchSpec] = StateFile(
    name="search",
    to_json=lambda search: {"search": section_to_json(search)},
    from_json=lambda document: stored_section(SearchSpec, document["search"]),
)
"""The limits at which the search of trials ended last."""
COMPLETE: StateFile[RequestedLimits] = StateFile(
    name="complete", to_json=RequestedLimits.to_json, from_json=RequestedLimits.from_json
)
"""The limits at which everything was done, the registration of the front included."""
