# SPDX-License-Identifier: Apache-2.0
"""Diagnosis of the machine: which engine and instruction set students run on, and why."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from typing import Any

from runtime.engine import INSTRUCTION_SET, InstructionSet, instruction_sets, is_built


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The state of the native engine on this machine."""

    python: str
    """Version of Python."""
    machine: str
    """Architecture of the processor."""
    n_cpus: int
    """CPUs that this process may use."""
    built: bool
    """Whether the native engine is built."""
    used: str | None
    """The instruction set that students run on; None where none can."""
    why: str
    """Why it is that one, or why there is none."""
    instruction_sets: tuple[InstructionSet, ...]
    """The instruction sets that were built, fastest first."""

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"python {self.python}, {self.machine}, {self.n_cpus} CPUs"]
        lines.append(f"engine: {self.used or 'none'}, {self.why}")
        lines += [f"  {'yes' if each.usable else 'no ':4}{each.name:14}{each.reason}" for each in self.instruction_sets]
        return "\n".join(lines)


def diagnose() -> Diagnosis:
    """Return the diagnosis of this machine. Missing parts are reported, not raised."""
    used, why = _choice()
    n_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Diagnosis(
        python=platform.python_version(),
        machine=platform.machine(),
        n_cpus=n_cpus,
        built=is_built(),
        used=used,
        why=why,
        instruction_sets=instruction_sets(),
    )


def _choice() -> tuple[str | None, str]:
    if not is_built():
        return None, "the native engine is not built, so NumPy runs students; install with pip and a C++ compiler"
    usable = [each.name for each in instruction_sets() if each.usable]
    forced = os.environ.get(INSTRUCTION_SET, "")
    if not forced:
        return usable[0], "the fastest that the processor and the operating system support"
    if forced in usable:
        return forced, f"forced by {INSTRUCTION_SET}"
    return None, f"{INSTRUCTION_SET} forces {forced}, which cannot be used here; choose one of {', '.join(usable)}"
