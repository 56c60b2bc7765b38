# SPDX-License-Identifier: Apache-2.0
"""From a spec to a network, and between a network and plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

import numpy as np
import torch
from torch import nn

from spaces.student import Dense, EncoderSpec, Pooling, StudentSpec, Switch
from trainers.modules.attention import SelfAttention
from trainers.modules.device import CPU, to_array, to_tensor
from trainers.modules.embeddings import Embeddings, StaticPath
from trainers.modules.feed_forward import DenseFeedForward
from trainers.modules.student import Layer, Student
from trainers.modules.switch import SwitchFeedForward

INITIAL_DEVIATION = 0.02  # of BERT's initial weights (Devlin et al. 2019)


def build(spec: StudentSpec, *, seed: int, device: torch.device = CPU) -> Student:
    """A student with random float32 weights on the device, in evaluation mode.

    They are drawn on the CPU: equal seeds give equal weights on every device.
    """
    student = _assemble(spec, device=CPU)
    generator = torch.Generator(CPU).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(0.0, INITIAL_DEVIATION, generator=generator)
    return student.to(device).eval()


def student_from_weights(
    spec: StudentSpec, weights: Mapping[str, np.ndarray | torch.Tensor], *, device: torch.device = CPU
) -> Student:
    """A student that holds a copy of these weights on the device, in evaluation mode.

    Raises ValueError if they do not fit.
    """
    student = _assemble(spec, device=device)
    parameters = dict(student.named_parameters())
    if set(parameters) != set(weights):
        raise ValueError(
            f"the weights must be those of the spec: missing {sorted(set(parameters) - set(weights))}, "
            f"unexpected {sorted(set(weights) - set(parameters))}"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            value = weights[name]
            if tuple(value.shape) != tuple(parameter.shape):
                raise ValueError(f"{name} must have shape {tuple(parameter.shape)}, got {tuple(value.shape)}")
            parameter.copy_(value if isinstance(value, torch.Tensor) else to_tensor(np.array(value), device))
    return student.eval()


def weights_of(student: Student) -> dict[str, np.ndarray]:
    """A float32 copy of the student's weights by name, from whatever device."""
    return {name: to_array(value.detach().to(torch.float32)).copy() for name, value in student.named_parameters()}


def _assemble(spec: StudentSpec, *, device: torch.device) -> Student:
    """The network of a spec; its parameters hold no meaningful values yet."""
    encoder, static = spec.encoder, spec.static
    static_path = (
        None
        if static is None
        else StaticPath(spec.vocabulary_size, spec.output_dim, embedding_dim=static.embedding_dim, device=device)
    )
    if encoder is None:
        return Student(
            embeddings=None,
            layers=[],
            pooling=Pooling.MEAN,
            projection=None,
            projection_kind=None,
            static=static_path,
            normalise=spec.normalise,
        )
    return Student(
        embeddings=Embeddings(
            spec.vocabulary_size,
            encoder.width,
            embedding_dim=encoder.embedding_dim,
            max_tokens=encoder.max_tokens,
            layer_norm_epsilon=encoder.layer_norm_epsilon,
            device=device,
        ),
        layers=[_layer(encoder, device=device) for _ in range(encoder.n_layers)],
        pooling=encoder.pooling,
        projection=None if encoder.projection is None else nn.Linear(encoder.width, spec.output_dim, device=device),
        projection_kind=encoder.projection,
        static=static_path,
        normalise=spec.normalise,
    )


def _layer(encoder: EncoderSpec, *, device: torch.device) -> Layer:
    epsilon = encoder.layer_norm_epsilon
    attention = SelfAttention(
        encoder.width, encoder.n_heads, encoder.head_width, layer_norm_epsilon=epsilon, device=device
    )
    match encoder.feed_forward:
        case Dense(units=units):
            return Layer(
                attention,
                DenseFeedForward(
                    encoder.width, units, activation=encoder.activation, layer_norm_epsilon=epsilon, device=device
                ),
            )
        case Switch(n_experts=n_experts, units=units, capacity_factor=capacity_factor):
            return Layer(
                attention,
                SwitchFeedForward(
                    encoder.width,
                    units,
                    n_experts,
                    capacity_factor=capacity_factor,
                    activation=encoder.activation,
                    layer_norm_epsilon=epsilon,
                    device=device,
                ),
            )
        case _:
            assert_never(encoder.feed_forward)
