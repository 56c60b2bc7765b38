# SPDX-License-Identifier: Apache-2.0
"""Every place that a structural dimension must reach, checked for each of them.

`PLACES` is the list that docs/extending.md explains. A new dimension of `spaces.dimensions.DIMENSIONS` needs a variant
in `VARIANTS` (two points that differ in it alone), and then fails here at every place that forgot it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from runtime.encoder import Encoder
from runtime.engine import Engine
from runtime.folder import expected_tensors, read_folder, write_folder
from search.export.formats import ExportFormat, export
from search.trials.points import initial_point
from spaces.cost import cost
from spaces.dimensions import DIMENSIONS
from spaces.domain import Choice, Value
from spaces.profile import LatencyProfile, Runtime
from spaces.recipe import Precision, RecipeSpec
from spaces.space import Space
from spaces.student import Dense, EncoderSpec, StaticSpec, StudentSpec, Switch, n_zero_blocks
from spaces.student_point import point_of
from spaces.student_words import describe
from tests.search.export.test_formats import SENTENCES, VOCABULARY, sentence_transformers_vectors, tokenizer_json
from tests.trainers.tiny import SPEC, data, inheritance
from trainers.distil.loop import Distillation
from trainers.distil.prune import block_sums, prunable_matrices
from trainers.inherit.inherit import inherit
from trainers.measure.backends.onnx_backend import OnnxBackend
from trainers.measure.predictor import latency_terms
from trainers.measure.random_student import zero_blocks
from trainers.modules.build import build, student_from_weights, weights_of
from trainers.modules.device import CPU
from trainers.modules.embed import embed_tokens
from trainers.modules.student import Student

EXTENDING = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
STUDY_FILE = EXTENDING.with_name("study-file.md")

TEACHER = replace(SPEC, vocabulary_size=max(SPEC.vocabulary_size, len(VOCABULARY)))
STRUCTURAL = tuple(name for name, dimension in DIMENSIONS.items() if dimension.structural)
OF_THE_TEACHER = {
    "vocabulary_size", "output_dim", "normalise", "max_tokens", "projection", "activation", "layer_norm_epsilon",
}  # fmt: skip
"""Fields of a spec that are no dimensions: every student has the teacher's."""

DENSE: dict[str, Value] = {
    "n_layers": 2, "width": 32, "n_heads": 2, "head_width": 8, "feed_forward": "dense", "units": 48, "sparsity": 0.0,
    "embedding_dim": None, "pooling": "mean", "static_path": False,
}  # fmt: skip
SWITCH = DENSE | {"feed_forward": "switch", "n_experts": 3, "expert_units": 32, "capacity_factor": 4.0}
STATIC = DENSE | {"static_path": True, "static_embedding_dim": None}

VARIANTS: dict[str, tuple[dict[str, Value], Value]] = {
    "n_layers": (DENSE, 1),
    "width": (DENSE, 16),
    "n_heads": (DENSE, 4),
    "head_width": (DENSE, 16),
    "feed_forward": (SWITCH | DENSE, "switch"),
    "units": (DENSE, 32),
    "n_experts": (SWITCH, 2),
    "expert_units": (SWITCH, 48),
    "capacity_factor": (SWITCH, 0.5),
    "sparsity": (DENSE, 0.5),
    "embedding_dim": (DENSE, 8),
    "pooling": (DENSE, "cls"),
    "static_path": (STATIC | {"static_path": False}, True),
    "static_embedding_dim": (STATIC, 8),
}
"""For every structural dimension a point, and another value that changes nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Two students that differ in one dimension."""

    name: str
    point: dict[str, Value]
    value: Value
    base: StudentSpec
    other: StudentSpec


@cache
def variant(name: str) -> Variant:
    """The dimension's students, as a space decodes them."""
    point, value = VARIANTS[name]
    base, other = (Space(domains={}).decode(each, TEACHER)[0] for each in (point, point | {name: value}))
    return Variant(name=name, point=point, value=value, base=base, other=other)


@cache
def weights_for(spec: StudentSpec) -> dict[str, NDArray[np.float32]]:
    """Random weights as large as trained ones, with the spec's zero blocks."""
    generator = np.random.default_rng(0)
    weights = {}
    for name, weight in weights_of(build(spec, seed=0)).items():
        values = generator.standard_normal(weight.shape)
        if "norm.weight" in name:
            values = 1.0 + 0.1 * values
        elif name.endswith("bias"):
            values *= 0.1
        elif "tokens" not in name and "positions" not in name:
            values /= math.sqrt(weight.shape[-1])
        weights[name] = values.astype(np.float32)
    return zero_blocks(spec, weights, seed=0)


TOKEN_IDS = np.random.default_rng(1).integers(0, len(VOCABULARY), (6, 12))


def torch_vectors(spec: StudentSpec, *, training: bool = False) -> NDArray[np.float32]:
    """The network's vectors of some random sentences."""
    network = student_from_weights(spec, weights_for(spec)).train(training)
    with torch.inference_mode():
        vectors: NDArray[np.float32] = network(torch.from_numpy(TOKEN_IDS)).embeddings.numpy()
    return vectors


def numpy_vectors(spec: StudentSpec) -> NDArray[np.float32]:
    """The same vectors from the NumPy runtime."""
    return Encoder(spec, weights_for(spec)).forward(TOKEN_IDS.astype(np.int32))


def decodes(each: Variant, _: Path) -> None:
    """The value of a point is the student's."""
    assert each.base != each.other


def is_inverted(each: Variant, _: Path) -> None:
    """A student's point has the value, and decodes to the student whoever the teacher is."""
    assert point_of(each.other)[each.name] == each.value
    for spec in (each.base, each.other):
        assert Space(domains={}).decode(point_of(spec), TEACHER)[0] == spec


def starts_initial_points(each: Variant, _: Path) -> None:
    """What an initial point leaves out is the teacher's value."""
    fixed = {name: value for name, value in point_of(each.other).items() if name != each.name}
    space = Space(domains={each.name: Choice((each.point.get(each.name), each.value))}, fixed=fixed)
    assert initial_point({}, space, each.other) == {each.name: each.value}


def is_stored(each: Variant, folder: Path) -> None:
    """A student's folder holds the spec, and the tensors of the built student and no others."""
    for spec in (each.base, each.other):
        weights = weights_for(spec)
        assert expected_tensors(spec) == {name: weight.shape for name, weight in weights.items()}
        read = read_folder(write_folder(folder / "student", spec, weights=weights, tokenizer_json=tokenizer_json()))
        assert repr(read.spec) == repr(spec)  # equal words of a StrEnum would be equal, but are not the same
        assert StudentSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def is_described(each: Variant, _: Path) -> None:
    """Tables tell the two students apart."""
    assert describe(each.base) != describe(each.other)


def is_counted(each: Variant, _: Path) -> None:
    """Parameters are those of the built student, and the two cost differently."""
    for spec in (each.base, each.other):
        assert cost(spec).n_parameters == sum(weight.size for weight in weights_of(build(spec, seed=0)).values())
    assert cost(each.base) != cost(each.other)


def is_predicted(each: Variant, _: Path) -> None:
    """The latency predictor tells the two students apart."""
    profile = LatencyProfile(runtime=Runtime.ENGINE)
    assert latency_terms(each.base, profile) != latency_terms(each.other, profile)


def is_built(each: Variant, _: Path) -> None:
    """The two networks have other tensors, or compute something else with the same ones."""
    first, second = (expected(spec) for spec in (each.base, each.other))
    if first == second:
        of_base, of_other = (torch_vectors(spec, training=True) for spec in (each.base, each.other))
        assert not np.allclose(of_base, of_other, atol=1e-3)


def expected(spec: StudentSpec) -> dict[str, tuple[int, ...]]:
    """Shapes of the built student."""
    return {name: weight.shape for name, weight in weights_of(build(spec, seed=0)).items()}


def is_numpys(each: Variant, _: Path) -> None:
    """The NumPy runtime computes what torch does."""
    for spec in (each.base, each.other):
        np.testing.assert_allclose(numpy_vectors(spec), torch_vectors(spec), atol=1e-5)


def is_the_engines(each: Variant, _: Path) -> None:
    """The engine computes what NumPy does, up to eight bits."""
    for spec in (each.base, each.other):
        vectors, exact = Engine(spec, weights_for(spec)).forward(TOKEN_IDS.astype(np.int32)), numpy_vectors(spec)
        assert (vectors * exact).sum(axis=1).mean() > 0.998


def is_onnxs(each: Variant, _: Path) -> None:
    """The ONNX graph computes what NumPy does."""
    for spec in (each.base, each.other):
        student = OnnxBackend().build(spec, weights_for(spec), n_threads=1)
        vectors = np.asarray(student.prepare([TOKEN_IDS.astype(np.int64)])(0))
        np.testing.assert_allclose(vectors, numpy_vectors(spec), atol=1e-4)


DRAWN = ".router."
"""Part of the name of what a student may draw at random: the teacher has nothing to inherit it from."""


def is_inherited(each: Variant, _: Path) -> None:
    """No matrix is what `build` drew at random, and the student is closer to its teacher than a random one."""
    teacher = tiny_inheritance()
    for spec in (each.base, each.other):
        spec = replace(spec, vocabulary_size=SPEC.vocabulary_size)
        inherited, drawn = inherit(teacher, spec, seed=0, device=CPU), build(spec, seed=0)
        of_the_seed = weights_of(drawn)
        for name, weight in weights_of(inherited).items():
            if weight.ndim > 1 and not name.endswith("bias") and DRAWN not in name:
                assert not np.array_equal(weight, of_the_seed[name]), name
        assert closeness(inherited) > closeness(drawn) + 0.1


def closeness(student: Student) -> float:
    """Mean cosine to the tiny teacher's vectors."""
    held_out = tiny_data()
    vectors = embed_tokens(student, held_out.held_out_token_ids, held_out.held_out_offsets)
    return float((vectors * held_out.held_out_embeddings).sum(axis=1).mean())


def is_distilled(each: Variant, _: Path) -> None:
    """Distillation arrives at finite weights with the spec's share of zero blocks."""
    recipe = RecipeSpec(batch_tokens=100, warmup_tokens=100, pruning_tokens=400, precision=Precision.FLOAT32)
    spec = replace(each.other, vocabulary_size=SPEC.vocabulary_size)
    sparsity = 0.0 if spec.encoder is None else spec.encoder.sparsity
    distillation = Distillation(build(spec, seed=0), recipe, tiny_data(), seed=0, sparsity=sparsity)
    assert math.isfinite(distillation.advance(600).loss)
    for name, matrix in prunable_matrices(distillation.student):
        zero = (block_sums(matrix.detach().abs()) == 0.0).flatten(-2) if sparsity else torch.zeros(1, 1)
        assert int(zero.sum()) == n_zero_blocks(zero.numel(), sparsity), name


def is_exported(each: Variant, folder: Path) -> None:
    """sentence-transformers gives NumPy's vectors, or the student is refused with the reason."""
    for number, spec in enumerate((each.base, each.other)):
        source = folder / f"student-{number}"
        write_folder(source, spec, weights=weights_for(spec), tokenizer_json=tokenizer_json())
        try:
            out = export(source, folder / f"exported-{number}", format=ExportFormat.SENTENCE_TRANSFORMERS)
        except ValueError as error:
            assert str(error)
            continue
        from runtime.loading import load_exact

        np.testing.assert_allclose(sentence_transformers_vectors(out), load_exact(source).encode(SENTENCES), atol=1e-4)


def is_documented(each: Variant, _: Path) -> None:
    """The page of the study file has it."""
    assert f"| `{each.name}` |" in STUDY_FILE.read_text("utf-8")


@cache
def tiny_inheritance() -> Any:
    """The tiny teacher and a static table that is not zero."""
    return inheritance(np.random.default_rng(3).standard_normal((SPEC.vocabulary_size, SPEC.output_dim), np.float32))


@cache
def tiny_data() -> Any:
    """Its text."""
    return data(120)


@dataclass(frozen=True, slots=True)
class Place:
    """A file that must know every structural dimension, and what shows that it does."""

    file: str
    check: Callable[[Variant, Path], None]
    exempt: tuple[str, ...] = ()
    """Dimensions that this place need not know, and does not."""
    slow: bool = False


PLACES = (
    Place("spaces/space.py", decodes),
    Place("spaces/student_point.py", is_inverted),
    Place("search/trials/points.py", starts_initial_points),
    Place("spaces/student.py", is_stored),
    Place("runtime/folder.py", is_stored),
    Place("spaces/student_words.py", is_described, exempt=("capacity_factor",)),  # of training alone
    Place("spaces/cost.py", is_counted, exempt=("capacity_factor", "pooling")),
    Place("trainers/measure/predictor.py", is_predicted, exempt=("capacity_factor",)),
    Place("trainers/modules/build.py", is_built),
    Place("runtime/encoder.py", is_numpys),
    Place("runtime/engine.py", is_the_engines),
    Place("trainers/measure/onnx_graph.py", is_onnxs),
    Place("trainers/inherit/inherit.py", is_inherited),
    Place("trainers/distil/prune.py", is_distilled),
    Place("search/export/sentence_transformers.py", is_exported, slow=True),
    Place("docs/study-file.md", is_documented),
)
"""The one list of places."""

CASES = [
    pytest.param(place, name, id=f"{place.file}-{name}", marks=[pytest.mark.slow] if place.slow else [])
    for place in PLACES
    for name in STRUCTURAL
]


def test_every_structural_dimension_has_a_variant() -> None:
    assert set(VARIANTS) == set(STRUCTURAL)


def test_every_field_of_a_student_is_a_dimension_or_the_teachers() -> None:
    names = {part.name for spec in (StudentSpec, EncoderSpec) for part in fields(spec)}
    assert names - OF_THE_TEACHER - {"encoder", "static"} <= set(STRUCTURAL)
    parts = {"static_embedding_dim": StaticSpec, "units": Dense, "n_experts expert_units capacity_factor": Switch}
    for dimensions, spec in parts.items():
        assert len(fields(spec)) == len(dimensions.split()) and set(dimensions.split()) <= set(STRUCTURAL)


@pytest.mark.parametrize(("place", "name"), CASES)
def test_a_place_knows_the_dimension(place: Place, name: str, tmp_path: Path) -> None:
    if name not in place.exempt:
        place.check(variant(name), tmp_path)
        return
    with pytest.raises(AssertionError):  # else the exemption is out of date
        place.check(variant(name), tmp_path)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.file)
def test_the_list_of_places_is_in_the_documents(place: Place) -> None:
    assert (EXTENDING.parents[1] / place.file).is_file()
    assert f"`{place.file}`" in EXTENDING.read_text("utf-8")
