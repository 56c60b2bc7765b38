# SPDX-License-Identifier: Apache-2.0
"""Whether two identities of a study mean the same, though different versions wrote them.

Profile and space are compared as what they say, with the defaults of what they leave out; the rest as it is written. A
part that only one of the two has is another version's, and there is nothing to compare it with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from search.trials.journal import read_study
from spaces.errors import UserError
from spaces.profile import LatencyProfile
from spaces.study.stored import stored_section, stored_space

if TYPE_CHECKING:
    from search.trials.plan import TrialPlan

IDENTITY = "identity"
"""User attribute of a study: what its trials must share to be compared."""


def require_same_study(plan: TrialPlan) -> None:
    """Raises ValueError if the plan's folder holds trials of a study with another identity; nothing is written."""
    study = read_study(plan.folder, plan.name)
    if study is not None:
        require_identity(study.user_attrs.get(IDENTITY) or {}, plan)


def require_identity(stored: Mapping[str, Any], plan: TrialPlan) -> None:
    """Raises ValueError, with what changed, if a plan's identity means something else than the stored one."""
    changed = changed_parts(stored, plan.identity)
    if changed:
        raise UserError(
            f"a study is continued with what it began with: {', '.join(changed)} changed since study "
            f"{plan.name!r} was first searched; give this one another --name, or delete {plan.folder}"
        )


def changed_parts(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names of the parts of an identity that are not the same any more, sorted."""
    both = {*stored} & {*wanted}
    return sorted(name for name in both if _meaning(name, stored[name]) != _meaning(name, wanted[name]))


def _meaning(name: str, value: Any) -> Any:
    value = json.loads(json.dumps(value))
    try:
        match name:
            case "profile":
                return stored_section(LatencyProfile, value)
            case "space":
                return stored_space(value)
            case _:
                return value
    except (AttributeError, ValueError):
        pass  # not of this version: equal only if written alike
    return value
