# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import threading
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
    assert out == tmp_path / "text.txt.npy"
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
    [
        (b"", "text.txt has no sentence"),
        (b"\n \n", "text.txt has no sentence"),
        ("one\ncaf\u00e9".encode("latin-1"), "text.txt, line 2: text must be UTF-8.*0xe9"),
        ("the cat".encode("utf-16"), "NUL bytes|0xff"),
        (gzip.compress(b"the cat", mtime=0), "compressed by gzip; end its name in .gz, or decompress it"),
    ],
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


@pytest.mark.parametrize(
    "name", ["corpus.en", "corpus.de", "corpus", "corpus.tar.txt", ".hidden", "a b", "text.npy.txt"]
)
def test_vectors_have_the_name_of_the_text_and_more(name: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text("the cat\n")
    assert embed_file(Store(tmp_path / "none"), folder, tmp_path / name) == tmp_path / f"{name}.npy"
    assert (tmp_path / name).read_text() == "the cat\n"


def test_compressed_text_is_embedded(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(b"the cat\nsleeps\n"))
    out = embed_file(Store(tmp_path / "none"), folder, tmp_path / "text.txt.gz")
    np.testing.assert_array_equal(np.load(out), load(folder).encode(["the cat", "sleeps"]))


def embed(folder: Path, *arguments: str, cwd: Path, text: bytes | None = b"the cat\nsleeps\n") -> bytes:
    command = [sys.executable, "-m", "search", "embed", str(folder), *arguments]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    return subprocess.run(command, input=text, cwd=cwd, env=environment, check=True, capture_output=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("-",), ("-", "--out", "-"), ("/dev/stdin",), ("/dev/stdin", "--out=/dev/stdout")]
)
def test_a_standard_stream_is_read_and_written(arguments: tuple[str, ...], folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    written = embed(folder, *arguments, cwd=tmp_path / "empty")
    np.testing.assert_array_equal(np.load(io.BytesIO(written)), load(folder).encode(["the cat", "sleeps"]))
    assert not list((tmp_path / "empty").iterdir())
    assert Path("/dev/stdout").is_symlink() and not Path("/dev/stdin.npy").exists()


@pytest.mark.slow
def test_one_end_may_be_a_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat\nsleeps\n")
    assert embed(folder, "-", "--out", "rows.npy", cwd=tmp_path) == b"rows.npy\n"
    written = embed(folder, "text.txt", "--out", "-", cwd=tmp_path, text=None)
    assert (tmp_path / "rows.npy").read_bytes() == written


def test_a_pipe_is_written_to_and_stays_a_pipe(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat\n")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    assert embed_file(Store(tmp_path / "none"), folder, tmp_path / "text.txt", out=pipe) == pipe
    reader.join(timeout=60)
    assert np.load(io.BytesIO(read[0])).shape == (1, 5) and pipe.is_fifo()


def test_vectors_are_not_written_to_a_terminal(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main_end, terminal = os.openpty()
    (tmp_path / "text.txt").write_text("the cat\n")
    with open(terminal, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(ValueError, match=r"standard output is a terminal; redirect it, or give --out"):
            embed_file(Store(tmp_path / "none"), folder, tmp_path / "text.txt", out=Path("-"))
    os.close(main_end)
