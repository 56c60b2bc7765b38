# SPDX-License-Identifier: Apache-2.0
"""Reporters of a search that print nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from search.console.progress import Bar


class Silent:
    """Says nothing."""

    def step(self, what: str) -> Bar:
        """Nothing."""
        return lambda done, total: None

    def say(self, line: str) -> None:
        """Nothing."""


@dataclass
class Heard(Silent):
    """Remembers all that it was told."""

    lines: list[str] = field(default_factory=list)

    def step(self, what: str) -> Bar:
        """A line."""
        self.lines.append(what)
        return super().step(what)

    def say(self, line: str) -> None:
        """A line."""
        self.lines.append(line)
