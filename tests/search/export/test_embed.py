# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from runtime.folder import expected_tensors, write_folder
from runtime.loading import load
from search.export.embed import embed_file, read_lines
from search.storage.store import Store
from spaces.student import StaticSpec, StudentSpec

WORDS = ["[UNK]", "the", "cat", "sleeps"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    spec = StudentSpec(vocabulary_size=len(WORDS), output_dim=5, static=StaticSpec())
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    generator = np.random.default_rng(0)
    weights = {name: generator.normal(size=shape) for name, shape in expected_tensors(spec).items()}
    return write_folder(tmp_path / "student", spec, weights=weights, tokenizer_json=tokenizer.to_str())


def test_row_i_belongs_to_line_i(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes("\ufeffthe cat\r\n\nsleeps\u2028the\ncat".encode())
    out = embed_file(Store(tmp_path / "none"), folder, text)
    assert out == tmp_path / "text.npy"
    vectors = np.load(out, allow_pickle=False)
    assert (vectors.dtype, vectors.shape) == (np.float32, (4, 5))
    np.testing.assert_array_equal(vectors, load(folder).encode(["the cat", "", "sleeps\u2028the", "cat"]))


def test_an_older_result_is_replaced_and_nothing_else_is_left(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat\n")
    store = Store(tmp_path / "none")
    for _ in range(2):
        out = embed_file(store, folder, text, out=tmp_path / "vectors.npy")
    assert np.load(out).shape == (1, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student", "text.txt", "vectors.npy"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no sentence"), (b"\n \n", "no sentence"), ("caf\u00e9".encode("latin-1"), "UTF-8.*0xe9")],
)
def test_text_that_cannot_be_used_is_refused(content: bytes, message: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        embed_file(Store(tmp_path), folder, tmp_path / "text.txt")


def test_a_missing_file_is_an_error_of_its_own(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_lines(tmp_path / "missing.txt")


@pytest.mark.parametrize("out", ["missing/vectors.npy", "vectors.txt", "."])
def test_a_place_that_cannot_hold_vectors_is_refused(out: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat")
    with pytest.raises(ValueError, match=r"npy|folder that exists"):
        embed_file(Store(tmp_path), folder, tmp_path / "text.txt", out=tmp_path / out)
