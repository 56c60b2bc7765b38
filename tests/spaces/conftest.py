# SPDX-License-Identifier: Apache-2.0
"""Strategies for specs, registered by type: `st.from_type(StudentSpec)` draws any valid student."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from spaces.domain import Choice, Integer, Real
from spaces.recipe import LossWeights, RecipeSpec
from spaces.student import Activation, Dense, EncoderSpec, Pooling, Projection, StaticSpec, StudentSpec, Switch

settings.register_profile("shared-machine", deadline=None, max_examples=50)
settings.load_profile("shared-machine")


@st.composite
def encoder_specs(draw: st.DrawFn) -> EncoderSpec:
    is_sparse = draw(st.booleans())
    width = 16 * draw(st.integers(1, 6)) if is_sparse else draw(st.integers(2, 90))
    n_heads = draw(st.sampled_from([n for n in range(1, width + 1) if width % n == 0]))
    head_widths = [n for n in range(1, width // n_heads + 1) if not is_sparse or n_heads * n % 16 == 0]
    units = 16 * draw(st.integers(1, 5)) if is_sparse else draw(st.integers(1, 80))
    return EncoderSpec(
        n_layers=draw(st.integers(1, 5)),
        width=width,
        n_heads=n_heads,
        head_width=draw(st.sampled_from(head_widths)),
        feed_forward=draw(
            st.builds(Dense, units=st.just(units))
            | st.builds(Switch, n_experts=st.integers(2, 5), units=st.just(units), capacity_factor=st.floats(0.5, 4))
        ),
        max_tokens=draw(st.integers(1, 64)),
        sparsity=draw(st.floats(0.0, 0.95)) if is_sparse else 0.0,
        embedding_dim=draw(st.none() | st.integers(1, width - 1)),
        pooling=draw(st.sampled_from(Pooling)),
        projection=draw(st.sampled_from(Projection)),
        activation=draw(st.sampled_from(Activation)),
    )


@st.composite
def student_specs(draw: st.DrawFn) -> StudentSpec:
    encoder = draw(st.none() | encoder_specs())
    static = draw(st.builds(StaticSpec, embedding_dim=st.none() | st.integers(1, 30)))
    return StudentSpec(
        vocabulary_size=draw(st.integers(1, 500)),
        output_dim=draw(st.integers(1, 60)),
        encoder=encoder,
        static=static if encoder is None or draw(st.booleans()) else None,
        normalise=draw(st.booleans()),
    )


@st.composite
def integers(draw: st.DrawFn) -> Integer:
    low, step, n_steps = draw(st.integers(-50, 50)), draw(st.integers(1, 7)), draw(st.integers(0, 30))
    log = low >= 1 and step == 1 and draw(st.booleans())
    return Integer(low, low + step * n_steps, step=step, log=log)


@st.composite
def reals(draw: st.DrawFn) -> Real:
    low, high = sorted(draw(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))))
    return Real(low, high, log=low > 0 and draw(st.booleans()))


_scalars: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.text("abc", max_size=3)
)

st.register_type_strategy(EncoderSpec, encoder_specs())
st.register_type_strategy(StudentSpec, student_specs())
st.register_type_strategy(Integer, integers())
st.register_type_strategy(Real, reals())
st.register_type_strategy(
    Choice,
    st.lists(_scalars, min_size=1, max_size=6, unique_by=lambda option: (type(option), option)).map(
        lambda options: Choice(tuple(options))
    ),
)
_weights = st.floats(0.0, 10.0)
st.register_type_strategy(
    LossWeights,
    st.builds(
        LossWeights,
        cosine=st.floats(0.1, 10.0),
        query_key=_weights,
        value_value=_weights,
        hidden=_weights,
        similarity=_weights,
    ),
)
st.register_type_strategy(
    RecipeSpec,
    st.builds(
        RecipeSpec,
        losses=st.from_type(LossWeights),
        learning_rate=st.floats(1e-6, 1.0),
        batch_tokens=st.integers(1, 10_000),
        average_decay=st.floats(0.0, 1.0),
    ),
)
