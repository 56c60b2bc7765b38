# SPDX-License-Identifier: Apache-2.0
"""The length of a student's vectors at the start of training: its teacher's, where vectors are not normalised.

Cut, narrowed and static students begin with vectors of a half to a third of the teacher's length. One factor on what
the vector is linear in corrects that, so that training has only the differences between sentences to learn.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from spaces.recipe import Precision
from spaces.student import Projection
from trainers.modules.embed import embed_tokens
from trainers.modules.student import Layer, Student

RIGHT = 0.01  # log of a ratio that is left as it is: rounding to bfloat16 moves lengths by less


@torch.no_grad()
def scale_vectors(student: Student, factor: float) -> bool:
    """Multiply the vectors, before they are normalised, by a factor; whether that is possible: not through a tanh."""
    if student.projection_kind is Projection.TANH:
        return False
    parameters = [] if student.static is None else [student.static.tokens]
    if student.embeddings is not None:
        last: Layer = student.layers[-1]  # type: ignore[assignment]
        parameters += (last.feed_forward.norm if student.projection is None else student.projection).parameters()
    for parameter in parameters:
        parameter.mul_(factor)
    return True


def match_length(
    student: Student, token_ids: NDArray[np.int32], offsets: NDArray[np.int64], target: NDArray[np.floating]
) -> None:
    """Give the vectors of some sentences the geometric mean length of the teacher's, unless they are normalised."""
    if student.normalise:
        return
    vectors = embed_tokens(student, token_ids, offsets, precision=Precision.BFLOAT16)
    lengths = [np.linalg.norm(rows.astype(np.float32), axis=1) for rows in (target, vectors)]
    with np.errstate(divide="ignore", invalid="ignore"):  # of vectors of length 0
        ratios = np.log(lengths[0]) - np.log(lengths[1])
    ratios = ratios[np.isfinite(ratios)]
    if len(ratios) and abs(ratios.mean()) > RIGHT:
        scale_vectors(student, float(np.exp(ratios.mean())))
