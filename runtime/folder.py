# SPDX-License-Identifier: Apache-2.0
"""A student on disk: `student.json`, `model.safetensors`, `tokenizer.json`, no pickles.

`expected_tensors` is the one list of a student's tensor names and shapes: torch's state dict, the NumPy
encoder and every export follow it. Linear weights are [outputs, inputs]; everything is float32, and the
zeros of a block-sparse student are stored densely. A folder that `read_folder` accepts can be run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from runtime.atomic import atomic_path
from spaces.errors import UserError
from spaces.student import MAX_ROWS, Dense, EncoderSpec, StudentSpec, Switch

FORMAT = 1
DOCUMENT_FILE = "student.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"

TOKEN_TABLES = ("embeddings.tokens", "static.tokens")
"""Tensors with a row for each token, of the encoder and of the static path; a student has either or both."""

REMEDY = "export or download the student again"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentFolder:
    """A student folder, read and validated."""

    path: Path
    """Path of the folder."""
    spec: StudentSpec
    """Architecture of the student."""
    weights: dict[str, NDArray[np.float32]]
    """Its tensors, by the names of `expected_tensors`."""
    tokenizer_path: Path
    """Its tokenizer, tokenizer.json."""
    max_tokens: int | None
    """Tokens at which a sentence is cut, special tokens included; None: never (static students)."""
    document: dict[str, Any]
    """The whole of student.json: format, spec, tokenizer, and added entries (teacher, measurements)."""


def expected_tensors(spec: StudentSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the spec's student, in the order of its forward pass."""
    tensors: dict[str, tuple[int, ...]] = {}
    if spec.encoder is not None:
        tensors |= _encoder_tensors(spec.encoder, vocabulary_size=spec.vocabulary_size)
        if spec.encoder.projection is not None:
            tensors |= _linear("projection", spec.output_dim, spec.encoder.width)
    if spec.static is not None:
        tensors["static.tokens"] = (spec.vocabulary_size, spec.static.embedding_dim or spec.output_dim)
        if spec.static.embedding_dim is not None:
            tensors["static.expand"] = (spec.output_dim, spec.static.embedding_dim)
    return tensors


def _encoder_tensors(encoder: EncoderSpec, *, vocabulary_size: int) -> dict[str, tuple[int, ...]]:
    width = encoder.width
    tensors: dict[str, tuple[int, ...]] = {"embeddings.tokens": (vocabulary_size, encoder.embedding_dim or width)}
    if encoder.embedding_dim is not None:
        tensors["embeddings.expand"] = (width, encoder.embedding_dim)
    tensors["embeddings.positions"] = (encoder.max_tokens, width)
    tensors |= _norm("embeddings.norm", width)
    for i in range(encoder.n_layers):
        attention, feed_forward = f"layers.{i}.attention", f"layers.{i}.feed_forward"
        tensors |= _linear(f"{attention}.qkv", 3 * encoder.attention_width, width)
        tensors |= _linear(f"{attention}.output", width, encoder.attention_width)
        tensors |= _norm(f"{attention}.norm", width)
        match encoder.feed_forward:
            case Dense(units=units):
                tensors |= _linear(f"{feed_forward}.input", units, width)
                tensors |= _linear(f"{feed_forward}.output", width, units)
            case Switch(n_experts=n_experts, units=units):
                tensors[f"{feed_forward}.router.weight"] = (n_experts, width)
                tensors |= _linear(f"{feed_forward}.experts_input", units, width, n_experts=n_experts)
                tensors |= _linear(f"{feed_forward}.experts_output", width, units, n_experts=n_experts)
            case _:
                assert_never(encoder.feed_forward)
        tensors |= _norm(f"{feed_forward}.norm", width)
    return tensors


def _linear(name: str, n_outputs: int, n_inputs: int, *, n_experts: int | None = None) -> dict[str, tuple[int, ...]]:
    stack = () if n_experts is None else (n_experts,)
    return {f"{name}.weight": (*stack, n_outputs, n_inputs), f"{name}.bias": (*stack, n_outputs)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def check_weights(spec: StudentSpec, weights: Mapping[str, NDArray[Any]], *, origin: str) -> None:
    """Raise ValueError unless the weights are exactly the spec's tensors: names, shapes, finite values."""
    expected = expected_tensors(spec)
    _check_names(expected, weights.keys(), origin=origin)
    for name, shape in expected.items():
        array = weights[name]
        _check_shape(name, shape, array.shape, origin=origin)
        if not _is_finite(array):
            n_bad = int(array.size - np.isfinite(array).sum())
            raise UserError(f"{origin}: {name} holds {n_bad} values that are NaN or infinite; {REMEDY}")


def _check_names(expected: Mapping[str, object], found: Iterable[str], *, origin: str) -> None:
    names = set(found)
    missing = [name for name in expected if name not in names]
    extra = sorted(names - set(expected))
    if missing:
        raise UserError(f"{origin}: the spec needs the tensors {_few(missing)}, which are missing; {REMEDY}")
    if extra:
        raise UserError(f"{origin}: the tensors {_few(extra)} are not part of the spec; {REMEDY}")


def _check_shape(name: str, expected: tuple[int, ...], found: tuple[int, ...], *, origin: str) -> None:
    if tuple(found) != expected:
        raise UserError(f"{origin}: {name} must have the shape {expected}, got {tuple(found)}; {REMEDY}")


def _is_finite(array: NDArray[Any]) -> bool:
    values = array.reshape(-1)
    with np.errstate(over="ignore"):  # of squares that are too large
        return bool(np.isfinite(np.dot(values, values)) or np.isfinite(values).all())


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def read_folder(path: str | Path, *, mapped: bool = False) -> StudentFolder:
    """Read and validate the student in a folder.

    With `mapped` the weights are memory-mapped; the file must not change while they are used.
    Raises FileNotFoundError if there is no such folder, ValueError naming the damage and the remedy otherwise.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no student folder at {path}; give the folder that `understudy export` wrote")
    if not (path / DOCUMENT_FILE).is_file():
        raise UserError(
            f"{path} is not a student folder: it holds no {DOCUMENT_FILE}; "
            "give the folder that `understudy export` wrote"
        )
    document, spec, max_tokens = _read_document(path / DOCUMENT_FILE)
    tokenizer_path = path / TOKENIZER_FILE
    if not tokenizer_path.is_file():
        raise UserError(f"{path}: {TOKENIZER_FILE} is missing, so no text can be encoded; {REMEDY}")
    return StudentFolder(
        path=path,
        spec=spec,
        weights=_read_weights(path / WEIGHTS_FILE, spec, mapped=mapped),
        tokenizer_path=tokenizer_path,
        max_tokens=max_tokens,
        document=document,
    )


def _read_document(path: Path) -> tuple[dict[str, Any], StudentSpec, int | None]:
    try:
        document = _parse(path)
        try:
            spec = StudentSpec.from_json(document["spec"])
        except ValueError as error:
            raise UserError(f"{path}: {error}; {REMEDY}") from None
        return document, spec, _max_tokens(document, spec, origin=str(path))
    except RecursionError:  # from json, or from showing a value that json could just read
        raise UserError(f"{path} is nested too deeply; {REMEDY}") from None


def _parse(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise UserError(f"{path} is not JSON: {error}; {REMEDY}") from None
    if not isinstance(document, dict) or not isinstance(document.get("spec"), dict):
        raise UserError(f"{path} must be an object with a spec; {REMEDY}")
    if document.get("format") != FORMAT:
        raise UserError(
            f"{path}: this version reads student folders of format {FORMAT}, got {document.get('format')!r}; "
            "install the version of understudy that wrote the folder, or export the student again"
        )
    return document


def _max_tokens(document: Mapping[str, Any], spec: StudentSpec, *, origin: str) -> int | None:
    tokenizer = document.get("tokenizer")
    if not isinstance(tokenizer, Mapping):
        raise UserError(f"{origin}: tokenizer must be an object with max_tokens, got {tokenizer!r}; {REMEDY}")
    max_tokens = tokenizer.get("max_tokens", spec.max_tokens)
    if max_tokens is None:
        return spec.max_tokens
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or not 1 <= max_tokens <= MAX_ROWS:
        raise UserError(
            f"{origin}: tokenizer max_tokens must be a positive integer up to {MAX_ROWS} or null, got {max_tokens!r}"
        )
    if spec.max_tokens is not None and max_tokens > spec.max_tokens:
        raise UserError(
            f"{origin}: tokenizer max_tokens {max_tokens} exceeds the student's {spec.max_tokens} positions; "
            f"set it to {spec.max_tokens} or less"
        )
    return max_tokens


def _read_weights(path: Path, spec: StudentSpec, *, mapped: bool) -> dict[str, NDArray[np.float32]]:
    if not path.is_file():
        raise UserError(f"{path.parent}: {path.name} is missing; {REMEDY}")
    expected = expected_tensors(spec)
    try:
        with safe_open(path, framework="numpy") as tensors:  # this checks the whole header
            _check_names(expected, tensors.keys(), origin=str(path))
            for name, shape in expected.items():
                header = tensors.get_slice(name)
                _check_shape(name, shape, tuple(header.get_shape()), origin=str(path))
                if header.get_dtype() != "F32":
                    raise UserError(f"{path}: {name} must be float32 (F32), got {header.get_dtype()}; {REMEDY}")
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}; {REMEDY}") from None
    in_file = _map_weights(path)
    weights = {name: in_file[name] if mapped else in_file[name].copy() for name in expected}
    check_weights(spec, weights, origin=str(path))
    return weights


def _map_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Memory-mapped tensors of a float32 safetensors file whose header was checked."""
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(n_header))
        contents = mmap(file.fileno(), 0, access=ACCESS_READ)
    found = {}
    for name, tensor in header.items():
        if name != "__metadata__":
            first, last = tensor["data_offsets"]
            values = np.frombuffer(contents, np.dtype("<f4"), (last - first) // 4, 8 + n_header + first)
            found[name] = np.require(values.reshape(tensor["shape"]), np.float32, "A")  # headers may have any length
    return found


def write_folder(
    path: str | Path,
    spec: StudentSpec,
    *,
    weights: Mapping[str, NDArray[Any]],
    tokenizer_json: str,
    document: Mapping[str, Any] | None = None,
) -> Path:
    """Write a student folder atomically; returns its path.

    `document` adds to student.json (teacher, measurements, tokenizer's max_tokens); format and spec are set
    here. An older student folder at the path is replaced, any other file or non-empty folder is refused.
    """
    path = Path(path)
    if path.exists() and not (path / DOCUMENT_FILE).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not a student folder; choose another name or remove it")
    whole = {"tokenizer": {"max_tokens": spec.max_tokens}, **(document or {})}
    whole |= {"format": FORMAT, "spec": spec.to_json()}
    _max_tokens(whole, spec, origin=str(path))
    try:
        text = json.dumps(whole, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: the document must be plain JSON: {error}") from None
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which the check reports by name
        arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in weights.items()}
    check_weights(spec, arrays, origin=str(path))

    with atomic_path(path, durable=True) as temporary:
        temporary.mkdir()
        (temporary / DOCUMENT_FILE).write_text(text + "\n", encoding="utf-8")
        (temporary / TOKENIZER_FILE).write_text(tokenizer_json, encoding="utf-8")
        save_file(arrays, temporary / WEIGHTS_FILE, metadata={"format": "pt"})
        (temporary / WEIGHTS_FILE).chmod((temporary / DOCUMENT_FILE).stat().st_mode)  # safetensors writes it private
    return path


def student_digest(folder: Path) -> str:
    """SHA-256 of a student's spec, weights and tokenizer; other entries of student.json do not count."""
    digest = hashlib.sha256()
    spec = json.loads((folder / DOCUMENT_FILE).read_text("utf-8"))["spec"]
    digest.update(json.dumps(spec, sort_keys=True).encode())
    for name in (WEIGHTS_FILE, TOKENIZER_FILE):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
