# SPDX-License-Identifier: Apache-2.0
"""The conditions under which latency is measured: runtime, batch, tokens and threads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Runtime(StrEnum):
    """What runs the student: a closed set; the native engine will join it."""

    TORCH = "torch"
    NUMPY = "numpy"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyProfile:
    """One latency is one number only under one profile."""

    runtime: Runtime = Runtime.TORCH
    """What runs the student, in float32."""
    batch_size: int = 1
    """Sentences of a call."""
    n_tokens: int = 32
    """Tokens of each sentence, special tokens included."""
    n_threads: int = 1
    """Threads of a call."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "n_tokens", "n_threads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} of a latency profile must be a positive integer, got {value!r}")

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back into an equal profile."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> LatencyProfile:
        """The profile that `to_json` wrote. Raises ValueError on an unknown key or value."""
        try:
            return cls(**{**document, "runtime": Runtime(document.get("runtime", Runtime.TORCH))})
        except TypeError as error:
            raise ValueError(f"not a latency profile: {error}") from None
