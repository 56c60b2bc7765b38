# SPDX-License-Identifier: Apache-2.0
"""Claims about the kept ranking of a teacher's layers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.trainers.tiny import teacher, text
from trainers.inherit.inherit import RANKING_SENTENCES, choose_layers
from trainers.inherit.layer_ranking import cached_ranking
from trainers.modules.device import CPU
from trainers.text.tokenised_text import TokenisedText


def tokenised(*, seed: int, n: int = 40) -> TokenisedText:
    """Random sentences of which only the tokens matter."""
    tokens, offsets = text(n, seed=seed)
    return TokenisedText(texts=[""] * n, tokens=tokens, offsets=offsets, key="", tokenizer_sha256="", max_tokens=16)


def test_a_ranking_is_made_once(tmp_path: Path) -> None:
    made: list[int] = []
    words = tokenised(seed=1)
    first = cached_ranking(tmp_path, teacher(), words, device=CPU, announce=lambda: made.append(1))
    assert first == choose_layers(teacher().student(), words.tokens, words.offsets)
    assert cached_ranking(tmp_path, teacher(), words, device=CPU, announce=lambda: made.append(2)) == first
    assert made == [1]


def test_what_decides_a_ranking_names_its_file(tmp_path: Path) -> None:
    made: list[int] = []
    words = tokenised(seed=1, n=RANKING_SENTENCES + 8)
    other = replace(words, tokens=np.roll(words.tokens, 1))
    for i, (who, what) in enumerate(
        [(teacher(), words), (replace(teacher(), weights_sha256="other"), words), (teacher(), other)]
    ):
        cached_ranking(tmp_path, who, what, device=CPU, announce=lambda i=i: made.append(i))
    beginning = words.take(RANKING_SENTENCES)  # the rest is not looked at
    cached_ranking(tmp_path, teacher(), beginning, device=CPU, announce=lambda: made.append(9))
    assert made == [0, 1, 2]


@pytest.mark.parametrize(
    "layers",
    [None, [], [[], [0], [0, 1]], [[], [0], [1, 0], [0, 1, 2]], [[], [3], [0, 1], [0, 1, 2]], [[], ["0"], [0, 1], 3]],
)
def test_a_broken_file_is_made_again(layers: object, tmp_path: Path) -> None:
    words = tokenised(seed=1)
    ranking = cached_ranking(tmp_path, teacher(), words, device=CPU)
    (path,) = tmp_path.iterdir()
    path.write_text("{" if layers is None else json.dumps({"format": 1, "layers": layers}))
    assert cached_ranking(tmp_path, teacher(), words, device=CPU) == ranking
