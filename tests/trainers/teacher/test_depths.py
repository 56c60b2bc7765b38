# SPDX-License-Identifier: Apache-2.0
"""One pass over a text equals a pass for every depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from spaces.student import Projection, StaticSpec
from tests.trainers.tiny import data, encoder_with
from trainers.modules.build import build
from trainers.modules.embed import embed_tokens
from trainers.teacher.depths import embed_at_every_depth


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("projection", [None, Projection.TANH])
def test_every_depth_equals_the_student_cut_to_it(normalise: bool, projection: Projection | None) -> None:
    spec = encoder_with(n_layers=3)
    assert spec.encoder is not None
    spec = replace(spec, normalise=normalise, encoder=replace(spec.encoder, projection=projection))
    student, text = build(spec, seed=0), data()
    tokens, offsets = text.held_out_token_ids, text.held_out_offsets
    vectors = embed_at_every_depth(student, tokens, offsets)
    assert vectors.shape == (3, len(offsets) - 1, spec.output_dim)
    for k in range(3, 0, -1):
        student.layers = nn.ModuleList(student.layers[:k])
        np.testing.assert_allclose(vectors[k - 1], embed_tokens(student, tokens, offsets), atol=1e-5)


def test_a_student_with_a_static_path_is_refused() -> None:
    student, text = build(replace(encoder_with(n_layers=1), static=StaticSpec()), seed=0), data()
    with pytest.raises(ValueError, match="static path"):
        embed_at_every_depth(student, text.held_out_token_ids, text.held_out_offsets)
