# SPDX-License-Identifier: Apache-2.0
"""Initialises a student from its teacher's weights.

Layers are chosen by greedy elimination; heads and feed-forward units are ranked by what they contribute on a
calibration text; width is cut by rotating the hidden space onto its principal directions; tables are
copied, rotated or factorised. Wherever something was cut, the output matrix of what remains is refitted by
ridge regression, layer after layer, to map the student's own states to the teacher's. A layer that
stands for several of the teacher's is fitted to what the last of them returns. A Switch layer's experts
divide a dense layer's tokens by spherical k-means, and each keeps the units that its tokens use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import numpy as np
import torch
from torch import Tensor, nn

from spaces.recipe import Precision
from spaces.student import Dense, EncoderSpec, StudentSpec
from trainers.inherit.least_squares import RIDGE, fit_gain, refit
from trainers.inherit.length import match_length, scale_vectors
from trainers.inherit.reduce import (
    best_heads,
    best_units,
    divide_tokens,
    factorise,
    principal_directions,
    shrink_heads,
)
from trainers.inherit.trace import (
    LayerTrace,
    activate,
    attend,
    calibration_batches,
    embed_batches,
    real_tokens,
    to_batches,
    trace_layers,
)
from trainers.modules.build import build
from trainers.modules.device import device_of, to_tensor
from trainers.modules.embed import embed_tokens
from trainers.modules.embeddings import Embeddings, StaticPath
from trainers.modules.feed_forward import DenseFeedForward
from trainers.modules.student import Layer, Student
from trainers.modules.switch import SwitchFeedForward
from trainers.teacher.load import Teacher
from trainers.text.batches import Batch
from trainers.text.tokenised_text import TokenisedText

CALIBRATION_SENTENCES = 640  # about 12,000 tokens; more raise what a student starts with, and take longer
STATIC_SCALES = np.geomspace(0.02, 50.0, 35)  # lengths of the static path tried, relative to the encoder's
STATIC_SIZE = 0.05  # root mean square of an inherited static table's entries, at most; measured in docs/log/2026-11.md
REFIT_SHARE = 0.75  # of the calibration; the rest balances the static path, as a refit is overfitted to its own text
RANKING_SENTENCES = 128  # ranking layers takes a pass for each pair of layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """The inputs of `inherit` that all students of a study share: NumPy arrays and plain values."""

    teacher: Teacher
    """The (first) teacher."""
    calibration_token_ids: np.ndarray
    """Int32: tokens of the calibration sentences."""
    calibration_offsets: np.ndarray
    """Int64 [sentences + 1]."""
    calibration_embeddings: np.ndarray
    """Float32 [sentences, output_dim]: the teacher's vectors of the calibration sentences."""
    calibration_targets: np.ndarray
    """Float32 [sentences, output_dim]: what students are trained towards; of several teachers their mean."""
    token_counts: np.ndarray
    """Int64 [vocabulary]: how often each token occurs in the training text."""
    layers: tuple[tuple[int, ...], ...]
    """`layers[k]`: the teacher's layers that a student of depth k starts from, in order."""
    static_table: np.ndarray | None
    """Float32 [vocabulary, output_dim]: the trained static table; None: static paths start from zero."""

    @property
    def n_refit_sentences(self) -> int:
        """The first of the calibration sentences, on which matrices are refitted."""
        return round(REFIT_SHARE * (len(self.calibration_offsets) - 1))


def prepare_inheritance(
    teacher: Teacher,
    text: TokenisedText,
    *,
    targets: np.ndarray | None = None,
    static_table: np.ndarray | None = None,
    layers: tuple[tuple[int, ...], ...] | None = None,
    device: torch.device,
) -> Inheritance:
    """Choose a calibration text (the first sentences) and rank the teacher's layers on it, on the device.

    `targets` are the vectors that students are trained towards, a row for each sentence; None: the teacher's. `layers`
    is a ranking that was made before (`trainers.inherit.layer_ranking`).
    """
    calibration = text.take(CALIBRATION_SENTENCES)
    embeddings = embed_tokens(
        teacher.student(device=device), calibration.tokens, calibration.offsets, precision=Precision.BFLOAT16
    )
    return Inheritance(
        teacher=teacher,
        calibration_token_ids=np.array(calibration.tokens),
        calibration_offsets=np.array(calibration.offsets),
        calibration_embeddings=embeddings,
        calibration_targets=embeddings if targets is None else targets[: len(calibration)].astype(np.float32),
        token_counts=np.bincount(text.tokens, minlength=teacher.spec.vocabulary_size),
        layers=layers or choose_layers(teacher.student(device=device), calibration.tokens, calibration.offsets),
        static_table=static_table,
    )


@torch.inference_mode()
def choose_layers(teacher: Student, token_ids: np.ndarray, offsets: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """For every depth, the layers that greedy removal leaves; a step removes the one that changes the vectors least."""
    offsets = offsets[: RANKING_SENTENCES + 1]
    layers = list(teacher.layers)
    whole = embed_tokens(teacher, token_ids, offsets, precision=Precision.BFLOAT16)
    kept = tuple(range(len(layers)))
    chosen = [kept]
    while kept:
        best, best_cosine = kept[1:], -2.0
        for candidate in (kept[:i] + kept[i + 1 :] for i in range(len(kept) if len(kept) > 1 else 0)):
            teacher.layers = nn.ModuleList(layers[i] for i in candidate)
            cosine = _mean_cosine(embed_tokens(teacher, token_ids, offsets, precision=Precision.BFLOAT16), whole)
            if cosine > best_cosine:
                best, best_cosine = candidate, cosine
        kept = best
        chosen.append(kept)
    teacher.layers = nn.ModuleList(layers)
    return tuple(reversed(chosen))


@torch.no_grad()  # not inference_mode: what is made here is trained
def inherit(inheritance: Inheritance, spec: StudentSpec, *, seed: int, device: torch.device) -> Student:
    """A student of this spec on the device, its weights inherited; only router ties and k-means use the seed.

    Raises ValueError if the student is deeper than its teacher.
    """
    student = build(spec, seed=seed, device=device)
    if spec.encoder is not None:
        _inherit_encoder(student, spec, inheritance, seed=seed)
    if student.static is not None:
        table = inheritance.static_table
        table = np.zeros((spec.vocabulary_size, spec.output_dim), np.float32) if table is None else table
        _set_table(student.static, to_tensor(table, device), inheritance.token_counts)
        if spec.encoder is not None:
            _balance_static_path(student, inheritance)
    n_refit = inheritance.n_refit_sentences
    offsets, targets = inheritance.calibration_offsets[n_refit:], inheritance.calibration_targets[n_refit:]
    match_length(student, inheritance.calibration_token_ids, offsets, targets)
    return student.requires_grad_(True)


def _inherit_encoder(student: Student, spec: StudentSpec, inheritance: Inheritance, *, seed: int) -> None:
    encoder, teacher_spec = spec.encoder, inheritance.teacher.spec.encoder
    assert encoder is not None and teacher_spec is not None and student.embeddings is not None
    for name in ("n_layers", "width", "n_heads"):
        if getattr(encoder, name) > getattr(teacher_spec, name):
            raise ValueError(
                f"a student inherits from its teacher and cannot exceed it: {name} {getattr(encoder, name)} > "
                f"{getattr(teacher_spec, name)}; lower {name}"
            )
    device = device_of(student)
    teacher = inheritance.teacher.student(device=device)
    assert teacher.embeddings is not None
    offsets = inheritance.calibration_offsets[: inheritance.n_refit_sentences + 1]
    batches = calibration_batches(inheritance.calibration_token_ids, offsets)

    traces = trace_layers(teacher, batches)

    narrowed = encoder.width < teacher_spec.width
    rotation = (
        principal_directions(torch.cat([trace.input for trace in traces]), encoder.width)
        if narrowed
        else torch.eye(teacher_spec.width, device=device)[:, : encoder.width]
    )
    _inherit_embeddings(student, teacher, inheritance, rotation, traces[0].input, batches)

    chosen = inheritance.layers[encoder.n_layers]
    if encoder.n_layers == teacher_spec.n_layers:
        chosen = tuple(range(encoder.n_layers))
    student_states = embed_batches(student, batches)
    exact = not narrowed and student.embeddings.expand is None and chosen[:1] == (0,)
    for i, source in enumerate(chosen):
        last = (chosen[i + 1] if i + 1 < len(chosen) else teacher_spec.n_layers) - 1
        student_states, exact = _inherit_layer(
            student.layers[i],  # type: ignore[arg-type]
            teacher.layers[source],  # type: ignore[arg-type]
            teacher.layers[last],  # type: ignore[arg-type]
            traces[source],
            traces[last],
            rotation,
            encoder,
            student_states,
            batches,
            exact=exact,
            seed=seed + i,
        )
    if student.projection is not None:
        _inherit_projection(student, teacher, rotation, student_states, batches)


def _inherit_embeddings(
    student: Student,
    teacher: Student,
    inheritance: Inheritance,
    rotation: Tensor,
    entering: Tensor,
    batches: list[Batch],
) -> None:
    ours, theirs = student.embeddings, teacher.embeddings
    assert ours is not None and theirs is not None
    table = theirs.tokens if theirs.expand is None else theirs.tokens @ theirs.expand.T
    _set_table(ours, table @ rotation, inheritance.token_counts)
    ours.positions.copy_((theirs.positions @ rotation)[: len(ours.positions)])
    if rotation.shape[0] == rotation.shape[1]:
        ours.norm.load_state_dict(theirs.norm.state_dict())
    else:
        plain = torch.cat([real_tokens(x, b) for x, b in zip(embed_batches(student, batches), batches, strict=True)])
        fit_gain(ours.norm, plain, entering @ rotation)


def _inherit_layer(
    ours: Layer,
    source: Layer,
    last: Layer,
    source_trace: LayerTrace,
    last_trace: LayerTrace,
    rotation: Tensor,
    encoder: EncoderSpec,
    states: list[Tensor],
    batches: list[Batch],
    *,
    exact: bool,
    seed: int,
) -> tuple[list[Tensor], bool]:
    """Fill one layer and refit it if the states that enter it are not exactly the teacher's, or something is cut.

    Returns the student's states behind it, and whether they still are exactly the teacher's.
    """
    attention, theirs = ours.attention, source.attention
    heads = best_heads(theirs, source_trace.context, encoder.n_heads)
    qkv_weight, qkv_bias, output_weight = shrink_heads(theirs, heads, encoder.head_width)
    attention.qkv.weight.copy_(qkv_weight @ rotation)
    attention.qkv.bias.copy_(qkv_bias)
    attention.output.weight.copy_(rotation.T @ output_weight)
    attention.output.bias.copy_(rotation.T @ theirs.output.bias)
    exact = exact and len(heads) == theirs.n_heads and encoder.head_width == theirs.head_width
    if exact:
        entering, context = source_trace.input, source_trace.context.flatten(1)
    else:
        entering = torch.cat([real_tokens(x, batch) for x, batch in zip(states, batches, strict=True)])
        context = attend(attention, states, batches).flatten(1)
        refit(attention.output, context, source_trace.attention_sum @ rotation - entering, ridge=RIDGE)
    attention_sum = entering + attention.output(context)
    _inherit_norm(attention.norm, theirs.norm, attention_sum, source_trace.middle @ rotation, rotation)
    middle = attention.norm(attention_sum)

    target = last_trace.feed_forward_sum @ rotation
    exact = exact and source is last and encoder.feed_forward == Dense(units=len(source_trace.unit_squares))
    match ours.feed_forward:
        case DenseFeedForward() as dense:
            _inherit_dense(dense, source.feed_forward, source_trace, middle, target, rotation, exact=exact)  # type: ignore[arg-type]
            feed_forward_sum = middle + dense.output(activate(dense, middle))
        case SwitchFeedForward() as switch:
            mixed = _inherit_switch(switch, source.feed_forward, middle, target, rotation, seed=seed)  # type: ignore[arg-type]
            feed_forward_sum = middle + mixed
        case _:
            assert_never(ours.feed_forward)
    leaving = last.feed_forward.norm(last_trace.feed_forward_sum) @ rotation
    _inherit_norm(ours.feed_forward.norm, last.feed_forward.norm, feed_forward_sum, leaving, rotation)
    return to_batches(ours.feed_forward.norm(feed_forward_sum), batches), exact


def _inherit_dense(
    ours: DenseFeedForward,
    theirs: DenseFeedForward,
    trace: LayerTrace,
    middle: Tensor,
    target: Tensor,
    rotation: Tensor,
    *,
    exact: bool,
) -> None:
    n_units = ours.input.out_features
    units = best_units(theirs.output.weight, trace.unit_squares, n_units)
    ours.output.weight.zero_()  # units beyond the teacher's keep their random inputs
    ours.input.weight[: len(units)] = theirs.input.weight[units] @ rotation
    ours.input.bias[: len(units)] = theirs.input.bias[units]
    ours.output.weight[:, : len(units)] = rotation.T @ theirs.output.weight[:, units]
    ours.output.bias.copy_(rotation.T @ theirs.output.bias)
    if not exact:
        refit(ours.output, activate(ours, middle), target - middle, ridge=RIDGE)


def _inherit_switch(
    ours: SwitchFeedForward, theirs: DenseFeedForward, middle: Tensor, target: Tensor, rotation: Tensor, *, seed: int
) -> Tensor:
    """Fill a Switch block from a dense one and return what it adds to each token."""
    router, choice = divide_tokens(middle, ours.n_experts, seed=seed)
    ours.router.weight.copy_(router)
    gate = torch.softmax(ours.router(middle), dim=-1).gather(1, choice[:, None])
    mixed = torch.zeros_like(middle)
    for expert in range(ours.n_experts):
        mine = choice == expert
        units = theirs.activation(theirs.input(middle @ rotation.T))[mine if mine.any() else slice(None)]
        kept = best_units(theirs.output.weight, units.square().mean(dim=0), ours.experts_input.weight.shape[1])
        ours.experts_output.weight[expert].zero_()
        ours.experts_input.weight[expert, : len(kept)] = theirs.input.weight[kept] @ rotation
        ours.experts_input.bias[expert, : len(kept)] = theirs.input.bias[kept]
        ours.experts_output.weight[expert, :, : len(kept)] = rotation.T @ theirs.output.weight[:, kept]
        ours.experts_output.bias[expert] = rotation.T @ theirs.output.bias
        if not mine.any():
            continue
        linear = nn.Linear(ours.experts_output.weight.shape[2], middle.shape[1], device=middle.device)
        linear.weight.copy_(ours.experts_output.weight[expert])
        linear.bias.copy_(ours.experts_output.bias[expert])
        activations = ours.activation(ours.experts_input(middle[mine], expert))
        refit(linear, activations, (target - middle)[mine], scale=gate[mine], ridge=RIDGE)
        ours.experts_output.weight[expert].copy_(linear.weight)
        ours.experts_output.bias[expert].copy_(linear.bias)
        mixed[mine] = gate[mine] * linear(activations)
    return mixed


def _inherit_norm(
    ours: nn.LayerNorm, theirs: nn.LayerNorm, entering: Tensor, leaving: Tensor, rotation: Tensor
) -> None:
    if rotation.shape[0] == rotation.shape[1]:
        ours.load_state_dict(theirs.state_dict())
    else:
        fit_gain(ours, entering, leaving)


def _inherit_projection(
    student: Student, teacher: Student, rotation: Tensor, states: list[Tensor], batches: list[Batch]
) -> None:
    """Copy the teacher's projection, or fit one from the rotated space to the teacher's vectors."""
    assert student.projection is not None
    if teacher.projection is not None and rotation.shape[0] == rotation.shape[1]:
        student.projection.load_state_dict(teacher.projection.state_dict())
        return
    student.projection.bias.zero_()
    if teacher.projection is None:
        student.projection.weight.copy_(rotation)
    else:
        student.projection.weight.copy_(teacher.projection.weight @ rotation)
        student.projection.bias.copy_(teacher.projection.bias)


def _set_table(owner: Embeddings | StaticPath, table: Tensor, token_counts: np.ndarray) -> None:
    """Copy a table, or factorise it if the owner holds an expansion."""
    if owner.expand is None:
        owner.tokens.copy_(table)
    else:
        rows, expand = factorise(table, to_tensor(token_counts, table.device), owner.expand.shape[1])
        owner.tokens.copy_(rows)
        owner.expand.copy_(expand)


def _balance_static_path(student: Student, inheritance: Inheritance) -> None:
    """Scale the static table so that encoder and static path together come closest to the teacher."""
    n_refit = inheritance.n_refit_sentences
    token_ids, offsets = inheritance.calibration_token_ids, inheritance.calibration_offsets[n_refit:]
    target = inheritance.calibration_embeddings[n_refit:]
    embeddings, static, normalise = student.embeddings, student.static, student.normalise
    assert static is not None
    student.normalise = False
    student.static = None
    encoded = embed_tokens(student, token_ids, offsets, precision=Precision.BFLOAT16)
    student.embeddings, student.static = None, static
    averaged = embed_tokens(student, token_ids, offsets)
    student.embeddings, student.normalise = embeddings, normalise
    size = np.linalg.norm(encoded, axis=1).mean() / max(1e-9, float(np.linalg.norm(averaged, axis=1).mean()))
    scales = [0.0, *(size * STATIC_SCALES)]
    cosines = [_mean_cosine(encoded + scale * averaged, target) for scale in scales]
    static.tokens.mul_(float(scales[int(np.argmax(cosines))]))
    _shorten_together(student)


def _shorten_together(student: Student) -> None:
    """Shorten static table and encoder alike if the table is long for its learning rate; the vectors stay the same.

    With a poor encoder the best table is a hundred times longer than a step of the learning rate, so that neither the
    table nor the encoder's share of the vector would change in training.
    """
    assert student.static is not None
    size = student.static.tokens.square().mean().sqrt().item()
    if student.normalise and size > STATIC_SIZE:
        scale_vectors(student, STATIC_SIZE / size)


def _mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).mean())
