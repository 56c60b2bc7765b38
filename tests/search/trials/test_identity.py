# SPDX-License-Identifier: Apache-2.0
"""Claims about identities of a study that different versions wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from search.trials.identity import changed_parts
from spaces.profile import LatencyProfile
from spaces.space import Space
from spaces.study.spec import space_to_json
from tests.search.toy_search import SPACE


def identity(**changes: Any) -> dict[str, Any]:
    """As a plan has it."""
    profile = LatencyProfile(n_tokens=8).to_json()
    return {"space": space_to_json(SPACE), "rungs": [1, 2], "profile": profile, "corpus": "a", **changes}


def test_what_was_stored_is_the_same() -> None:
    assert changed_parts(json.loads(json.dumps(identity())), identity(rungs=(1, 2))) == []


def test_a_key_with_a_default_changes_nothing() -> None:
    old = json.loads(json.dumps(identity()))
    del old["profile"]["batch_size"], old["profile"]["n_threads"]
    for domain in old["space"].values():
        for key, default in (("step", 1), ("log", False)):
            if key in domain and domain[key] is default:
                del domain[key]
    old["profile"]["mood"] = "good"
    assert old != identity()
    assert changed_parts(old, identity()) == []


def test_a_part_that_only_one_version_knows_is_not_compared() -> None:
    assert changed_parts(identity(mood="good"), identity(weather="fine")) == []


def test_what_means_something_else_is_named() -> None:
    smaller = Space(domains={name: domain for name, domain in SPACE.domains.items() if name != "units"})
    other = identity(
        space=space_to_json(smaller), rungs=[1, 3], profile=replace(LatencyProfile(), n_tokens=9).to_json(), corpus="b"
    )
    assert changed_parts(identity(), other) == ["corpus", "profile", "rungs", "space"]


def test_what_cannot_be_read_is_compared_as_it_is_written() -> None:
    assert changed_parts({"space": {"colour": 1}}, {"space": {"colour": 1}}) == []
    assert changed_parts({"space": {"colour": 1}, "profile": 3}, identity()) == ["profile", "space"]
