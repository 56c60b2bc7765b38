# SPDX-License-Identifier: Apache-2.0
"""A teacher's hidden states and activations on a calibration text, by which inheritance ranks, rotates and refits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainers.inherit.least_squares import float32_products
from trainers.modules.attention import SelfAttention, padding_bias
from trainers.modules.device import device_of, to_tensor
from trainers.modules.feed_forward import DenseFeedForward
from trainers.modules.student import Student
from trainers.text.batches import Batch, cut_by_tokens, make_batch

CALIBRATION_BATCH_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTrace:
    """The intermediate values of one layer, over all calibration tokens."""

    input: Tensor
    """[tokens, width]: hidden states that enter the layer."""
    context: Tensor
    """[tokens, heads, head width]: what each head passes to the output matrix."""
    attention_sum: Tensor
    """[tokens, width]: residual plus attention, before the layer norm."""
    middle: Tensor
    """[tokens, width]: hidden states between attention and feed-forward."""
    unit_squares: Tensor
    """[units]: mean square activation of each feed-forward unit."""
    feed_forward_sum: Tensor
    """[tokens, width]: residual plus feed-forward, before the layer norm."""


def calibration_batches(token_ids: np.ndarray, offsets: np.ndarray) -> list[Batch]:
    """A text as batches of like length, in a fixed order."""
    lengths = np.diff(offsets)
    order = np.argsort(lengths, kind="stable")
    batches = cut_by_tokens(order, lengths, batch_tokens=CALIBRATION_BATCH_TOKENS)
    return [make_batch(sentences, token_ids, offsets) for sentences in batches]


def embed_batches(student: Student, batches: list[Batch]) -> list[Tensor]:
    """[batch, tokens, width] for each batch: what enters the student's first layer."""
    assert student.embeddings is not None
    embeddings, device = student.embeddings, device_of(student)
    return [embeddings(to_tensor(batch.token_ids, device), embeddings.tokens) for batch in batches]


def attend(attention: SelfAttention, states: list[Tensor], batches: list[Batch]) -> Tensor:
    """[tokens, heads, head width]: each head's context over the real tokens of all batches."""
    contexts = []
    with float32_products("medium"):
        for x, batch in zip(states, batches, strict=True):
            context, _ = attention.contexts(x, _attention_bias(x, batch))
            contexts.append(real_tokens(context, batch))
    return torch.cat(contexts).view(-1, attention.n_heads, attention.head_width)


def activate(feed_forward: DenseFeedForward, middle: Tensor) -> Tensor:
    """[tokens, units]: the activations of a dense block's units."""
    with float32_products("medium"):
        activations: Tensor = feed_forward.activation(feed_forward.input(middle))
        return activations


def trace_layer(
    attention: SelfAttention, feed_forward: DenseFeedForward, states: list[Tensor], batches: list[Batch]
) -> tuple[LayerTrace, list[Tensor]]:
    """The trace of one layer and the batches' states behind it."""
    context = attend(attention, states, batches)
    entering = torch.cat([real_tokens(x, batch) for x, batch in zip(states, batches, strict=True)])
    attention_sum = entering + attention.output(context.flatten(1))
    middle = attention.norm(attention_sum)
    units = activate(feed_forward, middle)
    feed_forward_sum = middle + feed_forward.output(units)
    trace = LayerTrace(
        input=entering,
        context=context,
        attention_sum=attention_sum,
        middle=middle,
        unit_squares=units.square().mean(dim=0),
        feed_forward_sum=feed_forward_sum,
    )
    return trace, to_batches(feed_forward.norm(feed_forward_sum), batches)


def trace_layers(student: Student, batches: list[Batch]) -> list[LayerTrace]:
    """The traces of all layers of a student whose feed-forward blocks are dense (every teacher's are)."""
    traces = []
    states = embed_batches(student, batches)
    for layer in student.layers:
        trace, states = trace_layer(layer.attention, layer.feed_forward, states, batches)  # type: ignore[arg-type]
        traces.append(trace)
    return traces


def real_tokens(x: Tensor, batch: Batch) -> Tensor:
    """[tokens, ...]: the rows of a [batch, tokens, ...] tensor that are not padding."""
    return x.flatten(0, 1) if batch.mask is None else x[to_tensor(batch.mask, x.device)]


def to_batches(flat: Tensor, batches: list[Batch]) -> list[Tensor]:
    """The inverse of `real_tokens` over all batches; padding becomes 0."""
    states, start = [], 0
    for batch in batches:
        rows = flat[start : start + batch.n_tokens]
        start += batch.n_tokens
        x = rows.new_zeros(*batch.token_ids.shape, flat.shape[-1])
        if batch.mask is None:
            x = rows.view_as(x)
        else:
            x[to_tensor(batch.mask, x.device)] = rows
        states.append(x)
    return states


def _attention_bias(x: Tensor, batch: Batch) -> Tensor | None:
    return None if batch.mask is None else padding_bias(to_tensor(batch.mask, x.device), x.dtype)
