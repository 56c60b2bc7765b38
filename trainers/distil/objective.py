# SPDX-License-Identifier: Apache-2.0
"""The distillation loss of a batch: the recipe's weighted sum of the terms in `trainers.distil.losses`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spaces.recipe import LossWeights, RecipeSpec, TeacherOutput
from trainers.distil.losses import cosine_loss, hidden_loss, length_loss, relation_loss, similarity_loss
from trainers.distil.replicas import Replica
from trainers.modules.device import to_tensor
from trainers.modules.student import StudentOutput
from trainers.teacher.cache import Targets
from trainers.text.batches import Batch, token_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTargets:
    """The teacher's outputs for one batch: only what the recipe's losses use."""

    embeddings: Tensor
    """Float32 [batch, dim]."""
    queries: Tensor | None
    """[batch, tokens, attention width] of the last layer; None if no relation loss is used."""
    keys: Tensor | None
    """As queries."""
    values: Tensor | None
    """As queries."""
    hidden: Tensor | None
    """[batch, tokens, width]: last hidden states; None if the hidden loss is not used."""
    token_counts: np.ndarray
    """Int64 [batch]: tokens of each sentence."""

    @classmethod
    def of(
        cls, targets: Targets, batch: Batch, offsets: np.ndarray, losses: LossWeights, *, device: torch.device
    ) -> BatchTargets:
        """The targets of a batch, on the device.

        Raises ValueError if the cache lacks what the losses compare.
        """
        compared = losses.compares
        rows = token_rows(batch, offsets) if compared else None

        def tokens_of(array: np.ndarray | None, output: TeacherOutput) -> Tensor | None:
            if output not in compared:
                return None
            if array is None:
                raise ValueError(f"the recipe's losses need the teacher's {output}, which were not cached")
            return to_tensor(array[rows], device).float()

        return cls(
            embeddings=to_tensor(targets.embeddings[batch.sentences], device).float(),
            queries=tokens_of(targets.queries, TeacherOutput.QUERIES),
            keys=tokens_of(targets.keys, TeacherOutput.KEYS),
            values=tokens_of(targets.values, TeacherOutput.VALUES),
            hidden=tokens_of(targets.hidden, TeacherOutput.HIDDEN),
            token_counts=offsets[batch.sentences + 1] - offsets[batch.sentences],
        )


def distillation_loss(
    output: StudentOutput,
    mask: Tensor | None,
    targets: BatchTargets,
    recipe: RecipeSpec,
    *,
    share: slice,
    replica: Replica,
    imitates_length: bool = False,
) -> Tensor:
    """The loss of this replica's share of a batch, weighted so that the replicas' mean is the whole batch's loss.

    With `imitates_length` the cosine loss has the length loss added: for teachers whose vectors are not of length 1.
    """
    losses = recipe.losses
    n_sentences = len(targets.token_counts)
    sentence_weight = replica.sentence_weight(n_sentences)
    token_weight = replica.token_weight(targets.token_counts)
    embeddings = output.embeddings.float()

    total = recipe.balance_weight * token_weight * output.balance_loss
    if losses.cosine:
        term = cosine_loss(embeddings, targets.embeddings[share])
        if imitates_length:
            term = term + length_loss(embeddings, targets.embeddings[share])
        total = total + losses.cosine * sentence_weight * term
    if losses.similarity:
        total = total + losses.similarity * similarity_loss(
            replica.gather(embeddings, n_sentences), targets.embeddings, temperature=recipe.temperature
        )
    if losses.uses_relations:
        if output.qkv is None:
            raise ValueError("relation losses need an encoder: a static student has no attention; set them to 0")
        queries, keys, values = output.qkv.chunk(3, dim=-1)
        heads = recipe.n_relation_heads
        if losses.query_key:
            assert targets.queries is not None and targets.keys is not None
            teacher = (targets.queries[share], targets.keys[share])
            term = relation_loss((queries, keys), teacher, mask, n_heads=heads)
            total = total + losses.query_key * token_weight * term
        if losses.value_value:
            assert targets.values is not None
            teacher = (targets.values[share], targets.values[share])
            term = relation_loss((values, values), teacher, mask, n_heads=heads)
            total = total + losses.value_value * token_weight * term
    if losses.hidden:
        if output.hidden is None or targets.hidden is None:
            raise ValueError("the hidden loss needs an encoder: a static student has no hidden states; set it to 0")
        if output.hidden.shape[-1] != targets.hidden.shape[-1]:
            raise ValueError(
                f"the hidden loss needs equal widths: student {output.hidden.shape[-1]}, teacher "
                f"{targets.hidden.shape[-1]}; set it to 0 or keep the teacher's width"
            )
        total = total + losses.hidden * token_weight * hidden_loss(output.hidden, targets.hidden[share], mask)
    return total
