# SPDX-License-Identifier: Apache-2.0
"""Data parallelism: one of several processes that train the same student, each on its share of every batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as distributed
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One of `n_replicas` processes; with one replica every method is the identity."""

    rank: int
    """0 to n_replicas - 1."""
    n_replicas: int
    """Processes that share this student's batches."""
    group: distributed.ProcessGroup | None
    """Their process group; None: the default one, or none needed."""

    def share(self, n_sentences: int) -> slice:
        """The consecutive sentences of a batch that this replica computes; shares differ by one at most.

        All of them if there are fewer sentences than replicas: each replica then computes the same.
        """
        return self._share(self.rank, n_sentences) if self._divides(n_sentences) else slice(0, n_sentences)

    def sentence_weight(self, n_sentences: int) -> float:
        """Weight of a mean over this replica's sentences, so that the mean over replicas is the batch's mean."""
        return self.token_weight(np.ones(n_sentences, dtype=np.int64))

    def token_weight(self, token_counts: np.ndarray) -> float:
        """As `sentence_weight`, of a mean over tokens; Int64 [batch]: the tokens of each sentence."""
        if not self._divides(len(token_counts)):
            return 1.0
        share = self.share(len(token_counts))
        return float(token_counts[share].sum() * self.n_replicas / token_counts.sum())

    def gather(self, vectors: Tensor, n_sentences: int) -> Tensor:
        """The vectors of all replicas' shares in the batch's order.

        Only this replica's carry a gradient, times the number of replicas: a loss that every replica computes
        on the whole batch then has its true gradient in the replicas' mean.
        """
        if self.n_replicas == 1 or not self._divides(n_sentences):
            return vectors
        shares = [self._share(rank, n_sentences) for rank in range(self.n_replicas)]
        counts = [share.stop - share.start for share in shares]
        own = vectors.detach()
        padded = torch.cat([own, own.new_zeros(max(counts) - len(own), own.shape[1])])
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded, group=self.group)
        parts = [part[:count] for part, count in zip(parts, counts, strict=True)]
        parts[self.rank] = self.n_replicas * vectors - (self.n_replicas - 1) * own
        return torch.cat(parts)

    @torch.no_grad()
    def average_gradients(self, gradients: list[Tensor]) -> None:
        """Replace gradients (or a loss) in place by their mean over the replicas, in one message."""
        if self.n_replicas == 1:
            return
        flat = torch.cat([gradient.flatten().float() for gradient in gradients])
        distributed.all_reduce(flat, group=self.group)
        flat /= self.n_replicas
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def _divides(self, n_sentences: int) -> bool:
        return n_sentences >= self.n_replicas

    def _share(self, rank: int, n_sentences: int) -> slice:
        return slice(rank * n_sentences // self.n_replicas, (rank + 1) * n_sentences // self.n_replicas)
