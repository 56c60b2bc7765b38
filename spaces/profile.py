# SPDX-License-Identifier: Apache-2.0
"""The conditions under which latency is measured: runtime, batch, tokens and threads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from spaces.fields import Positive, field_breaches, refuse


class Runtime(StrEnum):
    """The runtime of the student. `trainers.measure.backends` has a `Backend` for each."""

    ENGINE = "engine"
    TORCH = "torch"
    ONNX = "onnx"
    NUMPY = "numpy"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyProfile:
    """Conditions of a latency measurement; latencies of different profiles are not comparable."""

    runtime: Runtime = Runtime.ENGINE
    """Runtime of the student: the native engine in 8 bits, the others in float32."""
    batch_size: Positive = 1
    """Sentences per call."""
    n_tokens: Positive = 32
    """Tokens of each sentence, special tokens included."""
    n_threads: Positive = 1
    """Threads per call."""

    def __post_init__(self) -> None:
        refuse(field_breaches(self))

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` turns back into an equal profile."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> LatencyProfile:
        """The profile that `to_json` wrote. Raises ValueError on an unknown key or value."""
        try:
            return cls(**{**document, "runtime": Runtime(document.get("runtime", Runtime.ENGINE))})
        except TypeError as error:
            raise ValueError(f"not a latency profile: {error}; a profile is the object that to_json writes") from None
