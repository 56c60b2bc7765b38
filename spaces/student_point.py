# SPDX-License-Identifier: Apache-2.0
"""The point of a student: the inverse of `Space.decode` for the structural dimensions."""

from __future__ import annotations

from typing import assert_never

from spaces.domain import Value
from spaces.student import Dense, StudentSpec, Switch


def point_of(student: StudentSpec) -> dict[str, Value]:
    """The value of every structural dimension that is active for this student.

    `Space.decode` makes an equal student from it, for any teacher with the same vocabulary, sentence
    dimension and activation, which are no dimensions.
    """
    point: dict[str, Value] = {"n_layers": student.n_layers, "static_path": student.static is not None}
    if student.static is not None:
        point["static_embedding_dim"] = student.static.embedding_dim
    encoder = student.encoder
    if encoder is None:
        return point
    point |= {
        "width": encoder.width,
        "n_heads": encoder.n_heads,
        "head_width": encoder.head_width,
        "sparsity": encoder.sparsity,
        "embedding_dim": encoder.embedding_dim,
        "pooling": str(encoder.pooling),
    }
    match encoder.feed_forward:
        case Dense(units=units):
            return point | {"feed_forward": "dense", "units": units}
        case Switch(n_experts=n_experts, units=units, capacity_factor=capacity_factor):
            experts = {"n_experts": n_experts, "expert_units": units, "capacity_factor": capacity_factor}
            return point | {"feed_forward": "switch"} | experts
        case _:
            assert_never(encoder.feed_forward)
