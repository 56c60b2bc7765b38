# SPDX-License-Identifier: Apache-2.0
"""The fidelity measurement that a study maximises besides speed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from spaces.fields import field_breaches, refuse


class FidelityMeasure(StrEnum):
    """A measurement of agreement on held-out text; the values are fields of `trainers.measure.fidelity.Fidelity`."""

    COSINE = "cosine"
    """Mean cosine of student's and teacher's vector of a sentence."""
    COSINE_CENTRED = "cosine_centred"
    """Mean cosine after the mean teacher vector is subtracted."""
    SPEARMAN = "spearman"
    """Rank correlation of pairwise similarities."""
    OVERLAP_AT_10 = "overlap_at_10"
    """Mean share of the teacher's 10 nearest neighbours that are the student's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveSpec:
    """The fidelity objective of a study."""

    fidelity: FidelityMeasure = FidelityMeasure.COSINE
    """The measurement by which students are pruned, selected and ordered, `select --min-fidelity` included."""

    def __post_init__(self) -> None:
        refuse(field_breaches(self))

    def to_json(self) -> dict[str, Any]:
        """The mapping of a study file."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any] | None) -> ObjectiveSpec:
        """The spec that `to_json` wrote; None, as in studies that are older than the key, is the default.

        Raises ValueError on anything else.
        """
        if document is None:
            return cls()
        try:
            return cls(**{**document, "fidelity": FidelityMeasure(document["fidelity"])})
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(
                f"an objective names its fidelity, one of {', '.join(FidelityMeasure)}, got {document!r} ({error})"
            ) from None
