# SPDX-License-Identifier: Apache-2.0
"""A student folder is written whole, read back equal, and refused with a remedy when damaged."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from runtime.folder import expected_tensors, read_folder, write_folder
from spaces.student import Dense, EncoderSpec, Projection, StaticSpec, StudentSpec, Switch

TOKENIZER = '{"any": "text"}'  # read_folder checks only that it is there; runtime.loading parses it


def spec_of(**changes: Any) -> StudentSpec:
    encoder = {
        "n_layers": 2,
        "width": 8,
        "n_heads": 2,
        "head_width": 4,
        "max_tokens": 12,
        "feed_forward": Dense(units=6),
    }
    return StudentSpec(vocabulary_size=20, output_dim=8, encoder=EncoderSpec(**{**encoder, **changes}))


def random_weights(spec: StudentSpec, *, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in expected_tensors(spec).items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    spec = spec_of()
    return write_folder(tmp_path / "student", spec, weights=random_weights(spec), tokenizer_json=TOKENIZER)


def test_a_written_folder_reads_back_equal(tmp_path: Path) -> None:
    spec = spec_of(feed_forward=Switch(n_experts=3, units=6), embedding_dim=4)
    weights = random_weights(spec)
    document = {"teacher": {"name": "t"}, "tokenizer": {"max_tokens": 10}, "measurements": {"latency_ms": 1.5}}
    path = write_folder(
        tmp_path / "new" / "student", spec, weights=weights, tokenizer_json=TOKENIZER, document=document
    )
    student = read_folder(path)
    assert student.spec == spec
    assert student.max_tokens == 10
    assert student.tokenizer_path.read_text() == TOKENIZER
    assert {key: student.document[key] for key in document} == document
    assert list(student.weights) == list(expected_tensors(spec))
    for name, array in student.weights.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, weights[name])


def test_mapped_weights_are_those_of_the_file_whatever_its_header_is_long(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole, copied = path.read_bytes(), read_folder(folder).weights
    n = int.from_bytes(whole[:8], "little")
    for n_more in range(4):  # so that the tensors begin anywhere
        path.write_bytes((n + n_more).to_bytes(8, "little") + whole[8 : 8 + n] + b" " * n_more + whole[8 + n :])
        mapped = read_folder(folder, mapped=True).weights
        assert list(mapped) == list(copied)
        for name, array in mapped.items():
            np.testing.assert_array_equal(array, copied[name])
            assert array.flags.aligned


def test_weights_whose_squares_overflow_are_finite(folder: Path) -> None:
    large = np.full(8, 3e38, np.float32)
    edit_weights(folder, embeddings__norm__bias=large)
    np.testing.assert_array_equal(read_folder(folder).weights["embeddings.norm.bias"], large)


def test_a_folder_holds_exactly_three_files_and_no_traces_remain_beside_it(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["model.safetensors", "student.json", "tokenizer.json"]
    assert [p.name for p in folder.parent.iterdir()] == ["student"]
    modes = {oct(p.stat().st_mode) for p in folder.iterdir()}
    assert len(modes) == 1, "every file follows the umask"


def test_transposed_weights_are_written_by_value(tmp_path: Path) -> None:
    spec = spec_of()
    weights = random_weights(spec)
    strided = {name: np.asfortranarray(array.astype(np.float64)) for name, array in weights.items()}
    student = read_folder(write_folder(tmp_path / "s", spec, weights=strided, tokenizer_json=TOKENIZER))
    for name, array in weights.items():
        np.testing.assert_array_equal(student.weights[name], array)


@given(
    n_layers=st.integers(1, 3),
    heads=st.sampled_from([(1, 8), (2, 4), (2, 3), (4, 2)]),
    n_experts=st.none() | st.integers(2, 4),
    units=st.integers(1, 9),
    embedding_dim=st.none() | st.integers(1, 7),
    output_dim=st.sampled_from([8, 5]),
    static=st.none() | st.just(StaticSpec()) | st.integers(1, 6).map(lambda n: StaticSpec(embedding_dim=n)),
)
def test_the_tensors_of_any_spec_count_what_the_layers_hold(
    n_layers: int,
    heads: tuple[int, int],
    n_experts: int | None,
    units: int,
    embedding_dim: int | None,
    output_dim: int,
    static: StaticSpec | None,
) -> None:
    n_heads, head_width = heads
    encoder = EncoderSpec(
        n_layers=n_layers,
        width=8,
        n_heads=n_heads,
        head_width=head_width,
        feed_forward=Dense(units=units) if n_experts is None else Switch(n_experts=n_experts, units=units),
        max_tokens=10,
        embedding_dim=embedding_dim,
        projection=None if output_dim == 8 else Projection.LINEAR,
    )
    spec = StudentSpec(vocabulary_size=30, output_dim=output_dim, encoder=encoder, static=static)
    attention = n_heads * head_width
    expert = units * 8 + units + 8 * units + 8
    feed_forward = expert if n_experts is None else n_experts * (expert + 8)
    layer = 3 * attention * 8 + 3 * attention + 8 * attention + 8 + feed_forward + 4 * 8
    table = 30 * 8 if embedding_dim is None else 30 * embedding_dim + 8 * embedding_dim
    projection = 0 if output_dim == 8 else output_dim * 8 + output_dim
    count = table + 10 * 8 + 2 * 8 + n_layers * layer + projection
    if static is not None:
        columns = static.embedding_dim
        count += 30 * output_dim if columns is None else (30 + output_dim) * columns
    assert sum(int(np.prod(shape)) for shape in expected_tensors(spec).values()) == count


def test_writing_again_replaces_the_student(folder: Path) -> None:
    spec = spec_of(n_layers=1)
    write_folder(folder, spec, weights=random_weights(spec), tokenizer_json=TOKENIZER)
    assert read_folder(folder).spec == spec
    assert [p.name for p in folder.parent.iterdir()] == ["student"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    spec = spec_of()
    with pytest.raises(FileExistsError, match="not a student folder"):
        write_folder(tmp_path, spec, weights=random_weights(spec), tokenizer_json=TOKENIZER)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_failed_write_leaves_the_old_student(folder: Path) -> None:
    spec = spec_of()
    weights = random_weights(spec, seed=1) | {"embeddings.norm.bias": np.full(8, np.nan)}
    with pytest.raises(ValueError, match=r"embeddings\.norm\.bias holds 8 values that are NaN"):
        write_folder(folder, spec, weights=weights, tokenizer_json=TOKENIZER)
    assert [p.name for p in folder.parent.iterdir()] == ["student"]
    np.testing.assert_array_equal(
        read_folder(folder).weights["embeddings.tokens"], random_weights(spec)["embeddings.tokens"]
    )


def test_a_measurement_that_is_not_a_number_is_refused_at_writing(tmp_path: Path) -> None:
    spec = spec_of()
    with pytest.raises(ValueError, match="plain JSON"):
        write_folder(
            tmp_path / "s",
            spec,
            weights=random_weights(spec),
            tokenizer_json=TOKENIZER,
            document={"measurements": {"cosine": float("nan")}},
        )
    assert not (tmp_path / "s").exists()


def edit_document(folder: Path, **changes: Any) -> None:
    document = json.loads((folder / "student.json").read_text())
    (folder / "student.json").write_text(json.dumps({**document, **changes}))


def edit_weights(folder: Path, **changes: np.ndarray | None) -> None:
    weights = load_file(folder / "model.safetensors")
    merged = {**weights, **{name.replace("__", "."): array for name, array in changes.items()}}
    save_file({name: array for name, array in merged.items() if array is not None}, folder / "model.safetensors")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def with_text(key: str) -> dict[str, Any]:
    encoder: dict[str, Any] = spec_of().to_json()["encoder"]
    return encoder | {key: "1"}


DAMAGES = {
    "missing tensor": (lambda f: edit_weights(f, embeddings__positions=None), r"embeddings\.positions.*missing"),
    "extra tensor": (lambda f: edit_weights(f, pooler=np.zeros(3, np.float32)), "pooler.*not part of the spec"),
    "wrong shape": (
        lambda f: edit_weights(f, embeddings__norm__bias=np.zeros(9, np.float32)),
        r"embeddings\.norm\.bias must have the shape \(8,\), got \(9,\)",
    ),
    "wrong dtype": (
        lambda f: edit_weights(f, embeddings__norm__bias=np.zeros(8, np.float16)),
        r"embeddings\.norm\.bias must be float32.*F16",
    ),
    "NaN": (
        lambda f: edit_weights(f, embeddings__norm__bias=np.array([np.nan, np.inf, 0, 0, 0, 0, 0, 0], np.float32)),
        r"embeddings\.norm\.bias holds 2 values that are NaN or infinite",
    ),
    "truncated weights": (lambda f: truncate(f / "model.safetensors"), r"model\.safetensors is damaged"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), r"model\.safetensors is damaged"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors is missing"),
    "no document": (lambda f: (f / "student.json").unlink(), r"no student\.json"),
    "truncated document": (lambda f: truncate(f / "student.json"), r"student\.json is not JSON"),
    "document of another encoding": (
        lambda f: (f / "student.json").write_bytes("{é}".encode("latin-1")),
        r"student\.json is not JSON",
    ),
    "document that is a list": (lambda f: (f / "student.json").write_text("[]"), "object with a spec"),
    "unknown format": (lambda f: edit_document(f, format=2), r"format 1, got 2.*install the version"),
    "unknown spec key": (lambda f: edit_document(f, spec={"depth": 3}), "depth"),
    "impossible spec": (
        lambda f: edit_document(f, spec={**spec_of().to_json(), "vocabulary_size": 0}),
        "vocabulary_size must be a positive integer",
    ),
    **{
        f"{key} as text": (
            lambda f, key=key: edit_document(f, spec={**spec_of().to_json(), "encoder": with_text(key)}),
            rf"student\.json: {key} must .*got '1'.*; export or download the student again",
        )
        for key in ("n_layers", "max_tokens", "sparsity", "layer_norm_epsilon", "embedding_dim")
    },
    "tokenizer missing": (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
    "tokenizer settings missing": (lambda f: edit_document(f, tokenizer=None), "tokenizer must be an object"),
    "too many tokens": (
        lambda f: edit_document(f, tokenizer={"max_tokens": 13}),
        "13 exceeds the student's 12 positions",
    ),
    "no tokens": (lambda f: edit_document(f, tokenizer={"max_tokens": 0}), "must be a positive integer"),
}


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused_with_what_is_wrong(folder: Path, name: str, mapped: bool) -> None:
    damage, message = DAMAGES[name]
    damage(folder)
    with pytest.raises(ValueError, match=message):
        read_folder(folder, mapped=mapped)


def test_a_missing_folder_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="understudy export"):
        read_folder(tmp_path / "nothing")
