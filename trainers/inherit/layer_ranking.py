# SPDX-License-Identifier: Apache-2.0
"""The ranking of a teacher's layers, kept in a file: it takes a pass over text for each pair of layers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from runtime.atomic import read_json, write_json
from trainers.inherit.inherit import RANKING_SENTENCES, choose_layers
from trainers.teacher.load import Teacher
from trainers.text.tokenised_text import TokenisedText

FORMAT = 1

Ranking = tuple[tuple[int, ...], ...]
"""`ranking[k]`: the teacher's layers that a student of depth k starts from, in order."""


def cached_ranking(
    folder: Path,
    teacher: Teacher,
    text: TokenisedText,
    *,
    device: torch.device,
    announce: Callable[[], object] = lambda: None,
) -> Ranking:
    """The ranking (`choose_layers`) on the beginning of a text: from the folder's file, or made now and kept.

    `announce` is called before a ranking is made. A broken file is made again.
    """
    text = text.take(RANKING_SENTENCES)
    digest = hashlib.sha256(json.dumps([FORMAT, teacher.weights_sha256, teacher.spec.to_json()]).encode())
    digest.update(text.tokens.tobytes())
    digest.update(text.offsets.tobytes())
    path = folder / f"{digest.hexdigest()[:32]}.json"
    assert teacher.spec.encoder is not None, "a teacher has layers"
    ranking = _ranking_of(read_json(path), n_layers=teacher.spec.encoder.n_layers)
    if ranking is None:
        announce()
        ranking = choose_layers(teacher.student(device=device), text.tokens, text.offsets)
        write_json(path, {"format": FORMAT, "layers": ranking}, durable=False)
    return ranking


def _ranking_of(document: dict[str, Any] | None, *, n_layers: int) -> Ranking | None:
    """The ranking of a file's document; None if it is broken."""
    layers = None if document is None else document.get("layers")
    if not isinstance(layers, list) or len(layers) != n_layers + 1:
        return None
    for depth, chosen in enumerate(layers):
        is_choice = isinstance(chosen, list) and len(chosen) == depth and all(type(layer) is int for layer in chosen)
        if not is_choice or chosen != sorted(set(chosen) & set(range(n_layers))):
            return None
    return tuple(tuple(chosen) for chosen in layers)
