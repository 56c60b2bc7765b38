# SPDX-License-Identifier: Apache-2.0
"""A student survives its folder bit for bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from runtime import expected_tensors, load_exact, read_folder
from spaces.student import Dense, EncoderSpec, Projection, StaticSpec, StudentSpec, Switch
from trainers.distil.checkpoint import load_student, save_student
from trainers.modules.build import build, weights_of

TOKENIZER = Tokenizer(WordLevel({"[UNK]": 0, "cat": 1, "mat": 2}, unk_token="[UNK]")).to_str()


def spec_of(feed_forward: Dense | Switch) -> StudentSpec:
    encoder = EncoderSpec(
        n_layers=2,
        width=8,
        n_heads=2,
        head_width=4,
        feed_forward=feed_forward,
        max_tokens=10,
        embedding_dim=4,
        projection=Projection.TANH,
    )
    return StudentSpec(vocabulary_size=20, output_dim=12, encoder=encoder, static=StaticSpec(embedding_dim=3))


SPECS = {
    "dense": spec_of(Dense(units=6)),
    "switch": spec_of(Switch(n_experts=3, units=6)),
    "static": StudentSpec(vocabulary_size=20, output_dim=12, static=StaticSpec()),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_loaded_student_equals_the_saved_one(name: str, tmp_path: Path) -> None:
    student = build(SPECS[name], seed=1)
    document = {"teacher": {"name": "t"}}
    folder = save_student(student, tmp_path / "student", spec=SPECS[name], tokenizer_json=TOKENIZER, document=document)
    loaded = load_student(folder)
    assert not loaded.training
    assert read_folder(folder).document["teacher"] == document["teacher"]
    saved, read = weights_of(student), weights_of(loaded)
    assert saved.keys() == read.keys()
    for tensor in saved:
        np.testing.assert_array_equal(saved[tensor], read[tensor])
    token_ids = torch.tensor([[3, 1, 19, 7]])
    with torch.inference_mode():
        assert torch.equal(student(token_ids).embeddings, loaded(token_ids).embeddings)


@pytest.mark.parametrize("name", SPECS)
def test_the_parameters_of_a_built_student_are_the_expected_tensors(name: str) -> None:
    shapes = {tensor: tuple(p.shape) for tensor, p in build(SPECS[name], seed=0).named_parameters()}
    assert shapes == expected_tensors(SPECS[name])


def test_a_saved_student_is_served_without_torch(tmp_path: Path) -> None:
    student = build(SPECS["static"], seed=1)
    encoder = load_exact(save_student(student, tmp_path / "s", spec=SPECS["static"], tokenizer_json=TOKENIZER))
    with torch.inference_mode():
        expected = student(torch.tensor([[1]])).embeddings.numpy()
    np.testing.assert_allclose(encoder.encode(["cat"]), expected, atol=1e-6)


def test_a_spec_that_is_not_the_students_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"static\.tokens must have the shape"):
        save_student(
            build(SPECS["static"], seed=1),
            tmp_path / "s",
            spec=StudentSpec(vocabulary_size=20, output_dim=13, static=StaticSpec()),
            tokenizer_json=TOKENIZER,
        )
    assert not (tmp_path / "s").exists()
