# SPDX-License-Identifier: Apache-2.0
"""The console that tables and bars print to, and whether it may be redrawn."""

from __future__ import annotations

from rich.console import Console


class TerminalConsole(Console):
    """A rich console that leaves a closed pipe to its caller, as `print` does; rich would exit with status 1."""

    def on_broken_pipe(self) -> None:
        """Raises BrokenPipeError."""
        raise BrokenPipeError


def is_live(console: Console) -> bool:
    """Whether the console may be redrawn: a terminal, not a dumb one, and not a pipe that $FORCE_COLOR declares one."""
    return console.is_interactive and console.file.isatty()
