# SPDX-License-Identifier: Apache-2.0
"""Specs of students, search spaces and studies; no torch."""

from spaces.domain import Choice, Domain, Integer, Real
from spaces.profile import LatencyProfile, Runtime
from spaces.recipe import LossWeights, Precision, RecipeSpec
from spaces.space import Space
from spaces.student import (
    Activation,
    Dense,
    EncoderSpec,
    FeedForward,
    Pooling,
    Projection,
    StaticSpec,
    StudentSpec,
    Switch,
)

__all__ = [
    "Activation",
    "Choice",
    "Dense",
    "Domain",
    "EncoderSpec",
    "FeedForward",
    "Integer",
    "LatencyProfile",
    "LossWeights",
    "Pooling",
    "Precision",
    "Projection",
    "Real",
    "RecipeSpec",
    "Runtime",
    "Space",
    "StaticSpec",
    "StudentSpec",
    "Switch",
]
