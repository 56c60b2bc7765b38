# SPDX-License-Identifier: Apache-2.0
"""The NumPy encoder equals the torch student for every kind of spec, and serves folders."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from runtime import Encoder, SentenceTokenizer, load, write_folder
from runtime.folder import expected_tensors
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
from trainers.modules.build import student_from_weights

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "the", "cat", "sat", "on", "a", "mat", "and", "slept"]
SENTENCES = ["the cat sat on a mat", "", "a cat", "and the cat slept on the mat and on the mat", "dog"]


def tokenizer_json(*, special: bool = True) -> str:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    if special:
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    return tokenizer.to_str()


def encoder_spec(
    *,
    feed_forward: FeedForward | None = None,
    width: int = 16,
    head_width: int = 4,
    embedding_dim: int | None = None,
    pooling: Pooling = Pooling.MEAN,
    projection: Projection | None = None,
    activation: Activation = Activation.GELU,
) -> EncoderSpec:
    return EncoderSpec(
        n_layers=2,
        width=width,
        n_heads=4,
        head_width=head_width,
        feed_forward=feed_forward or Dense(units=20),
        max_tokens=10,
        embedding_dim=embedding_dim,
        pooling=pooling,
        projection=projection,
        activation=activation,
    )


def spec_of(encoder: EncoderSpec | None, static: StaticSpec | None = None, *, normalise: bool = True) -> StudentSpec:
    return StudentSpec(vocabulary_size=len(WORDS), output_dim=16, encoder=encoder, static=static, normalise=normalise)


SPECS = {
    "dense": spec_of(encoder_spec()),
    "switch": spec_of(encoder_spec(feed_forward=Switch(n_experts=3, units=12))),
    "static": spec_of(None, StaticSpec()),
    "factorised static": spec_of(None, StaticSpec(embedding_dim=5), normalise=False),
    "skip path": spec_of(encoder_spec(), StaticSpec(embedding_dim=5)),
    "factorised": spec_of(encoder_spec(embedding_dim=6)),
    "narrow heads": spec_of(encoder_spec(head_width=3)),
    "first token, tanh": spec_of(encoder_spec(width=8, head_width=2, pooling=Pooling.CLS, projection=Projection.TANH)),
    "linear projection": spec_of(encoder_spec(width=8, head_width=2, projection=Projection.LINEAR), normalise=False),
    "relu": spec_of(encoder_spec(activation=Activation.RELU)),
    "gelu tanh": spec_of(encoder_spec(activation=Activation.GELU_TANH)),
}


def random_weights(spec: StudentSpec) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    return {
        name: (0.5 * generator.standard_normal(shape) + ("norm.weight" in name)).astype(np.float32)
        for name, shape in expected_tensors(spec).items()
    }


def folder_of(spec: StudentSpec, path: Path, *, special: bool = True) -> Path:
    return write_folder(path, spec, weights=random_weights(spec), tokenizer_json=tokenizer_json(special=special))


@pytest.mark.parametrize("name", SPECS)
def test_the_numpy_student_equals_the_torch_student(name: str) -> None:
    spec = SPECS[name]
    weights = random_weights(spec)
    token_ids = np.random.default_rng(0).integers(0, len(WORDS), size=(5, 9))
    mask = np.arange(9) < np.array([[9], [4], [1], [7], [9]])
    student = student_from_weights(spec, weights)
    for given in (None, mask):
        with torch.inference_mode():
            tensors = [None if a is None else torch.from_numpy(a) for a in (token_ids, given)]
            expected = student(*tensors).embeddings.numpy()
        np.testing.assert_allclose(Encoder(spec, weights).forward(token_ids, given), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_a_sentence_alone_equals_the_sentence_in_a_padded_batch(name: str, tmp_path: Path) -> None:
    encoder = load(folder_of(SPECS[name], tmp_path / "student"))
    together = encoder.encode(SENTENCES, batch_size=3)
    assert together.shape == (5, 16)
    assert together.dtype == np.float32
    alone = np.concatenate([encoder.encode([sentence]) for sentence in SENTENCES])
    np.testing.assert_allclose(together, alone, atol=2e-6)


@pytest.mark.parametrize("special", [True, False])
def test_an_empty_list_and_an_empty_sentence_work(tmp_path: Path, special: bool) -> None:
    encoder = load(folder_of(SPECS["skip path"], tmp_path / "student", special=special))
    assert encoder.encode([]).shape == (0, 16)
    assert np.isfinite(encoder.encode([""])).all()


def test_a_long_sentence_is_cut_at_the_students_positions(tmp_path: Path) -> None:
    encoder = load(folder_of(SPECS["dense"], tmp_path / "student"))
    long = " ".join(["cat"] * 50)
    cut = " ".join(["cat"] * 8)  # 8 words and 2 special tokens fill 10 positions
    np.testing.assert_array_equal(encoder.encode([long]), encoder.encode([cut]))


def test_the_static_student_is_the_mean_of_its_rows() -> None:
    spec = spec_of(None, StaticSpec(), normalise=False)
    weights = random_weights(spec)
    token_ids = np.array([[1, 4, 4, 2]])
    expected = weights["static.tokens"][[1, 4, 4, 2]].mean(axis=0)
    np.testing.assert_allclose(Encoder(spec, weights).forward(token_ids)[0], expected, atol=1e-6)


def test_ids_outside_the_vocabulary_and_too_many_tokens_are_refused() -> None:
    encoder = Encoder(SPECS["dense"], random_weights(SPECS["dense"]))
    with pytest.raises(ValueError, match="token ids must lie in 0 to 11, got 0 to 12"):
        encoder.forward(np.array([[0, 12]]))
    with pytest.raises(ValueError, match="token ids must lie in 0 to 11, got -1"):
        encoder.forward(np.array([[-1]]))
    with pytest.raises(ValueError, match="at most 10 tokens fit"):
        encoder.forward(np.zeros((1, 11), dtype=np.int64))


def test_bad_arguments_of_encode_are_refused(tmp_path: Path) -> None:
    encoder = load(folder_of(SPECS["dense"], tmp_path / "student"))
    with pytest.raises(TypeError, match="wrap it in a list"):
        encoder.encode("a cat")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        encoder.encode(["a cat"], batch_size=0)
    with pytest.raises(ValueError, match="has no tokenizer"):
        Encoder(encoder.spec, random_weights(encoder.spec)).encode(["a cat"])


def test_a_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = folder_of(SPECS["dense"], tmp_path / "student")
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
        load(folder)


def test_a_tokenizer_with_more_tokens_than_the_table_is_refused(tmp_path: Path) -> None:
    small = StudentSpec(vocabulary_size=5, output_dim=16, static=StaticSpec())
    with pytest.raises(ValueError, match="ids need 12 rows but the student's table has 5"):
        load(folder_of(small, tmp_path / "student"))


def test_max_tokens_must_leave_room_for_text() -> None:
    with pytest.raises(ValueError, match="max_tokens must exceed the 2 special tokens, got 2"):
        SentenceTokenizer(tokenizer_json(), max_tokens=2)


def test_a_tokenizer_file_equals_its_text(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(tokenizer_json())
    from_file = SentenceTokenizer(tmp_path / "tokenizer.json", max_tokens=6).encode(SENTENCES)
    from_text = SentenceTokenizer(tokenizer_json(), max_tokens=6).encode(SENTENCES)
    assert [ids.tolist() for ids in from_file] == [ids.tolist() for ids in from_text]
    assert from_file[1].tolist() == [1, 2]
    assert from_file[3].tolist() == [1, 10, 4, 5, 11, 2]


def test_serving_imports_neither_torch_nor_ray_nor_mlflow() -> None:
    code = "import sys, runtime; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert not {"torch", "ray", "mlflow", "scipy", "transformers", "optuna"} & set(done.stdout.split())
