# SPDX-License-Identifier: Apache-2.0
"""Comparison of a study's stored identity with a plan's, even if different versions wrote them.

Profile and space are parsed, and so compared with defaults filled in; other parts are compared as JSON. A part that
only one of the two has comes from another version, and is not compared.
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
"""User attribute of a study: what its trials must have in common to be comparable."""


def require_same_study(plan: TrialPlan) -> None:
    """Raises ValueError if the plan's folder holds trials of a study with another identity; nothing is written."""
    study = read_study(plan.folder, plan.name)
    if study is not None:
        require_identity(study.user_attrs.get(IDENTITY) or {}, plan)


def require_identity(stored: Mapping[str, Any], plan: TrialPlan) -> None:
    """Raises ValueError, with the parts that changed, if a plan's identity differs from the stored one."""
    changed = changed_parts(stored, plan.identity)
    if changed:
        raise UserError(
            f"a study is continued with what it began with: {', '.join(changed)} changed since study "
            f"{plan.name!r} was first searched; give this one another --name, or delete {plan.folder}"
        )


def changed_parts(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names of the parts of an identity that differ, sorted."""
    both = {*stored} & {*wanted}
    return sorted(name for name in both if _parsed(name, stored[name]) != _parsed(name, wanted[name]))


def _parsed(name: str, value: Any) -> Any:
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
        pass  # another version's: compared as JSON
    return value
