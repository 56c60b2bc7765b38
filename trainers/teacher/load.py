# SPDX-License-Identifier: Apache-2.0
"""A teacher, read from plain files: configuration, safetensors and tokenizer. No code of a model is ever run.

A teacher is a student of full depth that computes the same function, so its weights are kept under a student's
tensor names. A folder in the layout of sentence-transformers says how it pools, projects and normalises; a plain
transformers folder is pooled by the mean and not normalised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer, normalizers

from runtime.folder import expected_tensors
from spaces.errors import UserError
from spaces.fields import require_name
from spaces.student import StudentSpec
from spaces.study.spec import SourceKind, TeacherSpec
from trainers.modules.build import student_from_weights
from trainers.modules.device import CPU, to_array
from trainers.teacher.layout import DOWNLOAD_AGAIN, read_json, read_layout
from trainers.teacher.weights import encoder_spec, encoder_weights, family_of
from trainers.text.hub import download_model

if TYPE_CHECKING:
    from trainers.modules.student import Student

WEIGHTS = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "tokenizer.model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A teacher as NumPy arrays and plain values, which are sent to workers."""

    name: str
    """Last part of the package name, hub id or folder."""
    source: str
    """Its source in the study file."""
    spec: StudentSpec
    """The student that computes the teacher's function."""
    weights: dict[str, NDArray[np.float32]]
    """Its tensors under a student's names."""
    tokenizer_json: str
    """Its tokenizer, without truncation and padding."""
    weights_sha256: str
    """Digest of its weight files."""
    max_tokens: int
    """Tokens at which it cuts sentences, special tokens included."""

    def student(self, *, device: torch.device = CPU) -> Student:
        """The teacher as a network on the device, in float32 and evaluation mode."""
        return student_from_weights(self.spec, self.weights, device=device)


def load_teacher(spec: TeacherSpec) -> Teacher:
    """The teacher of a study's entry: from a package, the hub or a folder.

    Raises ValueError or FileNotFoundError, with the remedy, if it cannot be had, is of another family, has no
    safetensors or no tokenizer, or if its weights are not those that `sha256` names (checked before they are read).
    """
    match spec.kind:
        case SourceKind.PACKAGE:
            folder = package_folder(spec.reference)
        case SourceKind.HUB:
            folder = download_model(spec.reference)
        case SourceKind.FOLDER:
            folder = Path(spec.reference).expanduser()
        case SourceKind.INSTALLED_DOCS | SourceKind.FILE:
            raise UserError(f"a teacher is package:NAME, hub:ORGANISATION/NAME or a folder, got {spec.source!r}")
        case _:
            assert_never(spec.kind)
    name = folder.resolve().name if spec.kind is SourceKind.FOLDER else spec.reference.rpartition("/")[2]
    return read_teacher(folder, name=name, source=spec.source, sha256=spec.sha256)


def package_folder(distribution: str) -> Path:
    """The folder of the model that an installed distribution carries."""
    require_name("the package of a teacher", distribution)
    try:
        files = metadata.distribution(distribution).files or []
    except metadata.PackageNotFoundError:
        raise UserError(
            f"the package {distribution!r} of a teacher must be installed in this environment; run "
            f"`pip install {distribution}`"
        ) from None
    paths = [Path(str(file.locate())) for file in files if ".." not in file.parts]
    folders = {path.parent for path in paths if path.name == "modules.json"} or {
        path.parent for path in paths if path.name == "config.json" and (path.parent / WEIGHTS).is_file()
    }
    if len(folders) != 1:
        found = ", ".join(map(str, sorted(folders))) or "none"
        raise UserError(
            f"the package {distribution!r} must carry exactly one model folder (config.json, {WEIGHTS}), found {found}"
            "; give the model's folder as the teacher's source instead"
        )
    return folders.pop()


def read_teacher(folder: Path, *, name: str, source: str, sha256: str | None = None) -> Teacher:
    """The teacher in a folder of transformers' or sentence-transformers' layout."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no teacher folder {folder}; give a folder, package:NAME or hub:ORGANISATION/NAME"
        )
    layout = read_layout(folder)
    body = layout.transformer
    config = read_json(body / "config.json")
    family = family_of(config, origin=str(body / "config.json"))
    digest = _digest_weights(body, sha256=sha256)
    tokenizer_json = read_tokenizer(body, lowercase=layout.lowercase)

    tensors = _Checkpoint(body / WEIGHTS, prefix=family.prefix)
    encoder = encoder_spec(
        config, pooling=layout.pooling, projection=layout.projection, origin=str(body / "config.json")
    )
    weights = encoder_weights(tensors.take, config, encoder, origin=str(body))
    output_dim = encoder.width
    if layout.dense is not None:
        digest = hashlib.sha256(f"{digest} {_digest_weights(layout.dense)}".encode()).hexdigest()
        dense = _Checkpoint(layout.dense / WEIGHTS, prefix="")
        weights["projection.weight"] = dense.take("linear.weight")
        output_dim = len(weights["projection.weight"])
        bias = read_json(layout.dense / "config.json").get("bias", True)
        weights["projection.bias"] = dense.take("linear.bias") if bias else np.zeros(output_dim, np.float32)
    spec = StudentSpec(
        vocabulary_size=len(weights["embeddings.tokens"]),
        output_dim=output_dim,
        encoder=encoder,
        normalise=layout.normalise,
    )
    _check(spec, weights, origin=str(folder))
    n_tokens = Tokenizer.from_str(tokenizer_json).get_vocab_size(with_added_tokens=True)
    if n_tokens > spec.vocabulary_size:
        raise UserError(
            f"{folder}: the tokenizer has {n_tokens} tokens and the token table {spec.vocabulary_size} rows; they are "
            f"not of one model, {DOWNLOAD_AGAIN}"
        )
    return Teacher(
        name=name,
        source=source,
        spec=spec,
        weights=weights,
        tokenizer_json=tokenizer_json,
        weights_sha256=digest,
        max_tokens=min(encoder.max_tokens, layout.max_tokens or encoder.max_tokens),
    )


def read_tokenizer(folder: Path, *, lowercase: bool = False) -> str:
    """The folder's tokenizer as the text of a tokenizer.json, without truncation and padding."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"{folder} must hold the teacher's tokenizer (tokenizer.json), and has none; save it there with "
            "`AutoTokenizer.from_pretrained(...).save_pretrained(folder)`"
        )
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else _converted_tokenizer(folder)
    except Exception as error:  # tokenizers raises plain Exception, whatever is wrong
        raise UserError(f"{folder}: the tokenizer cannot be read: {error}; {DOWNLOAD_AGAIN}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if lowercase:
        parts = [normalizers.Lowercase(), *([tokenizer.normalizer] if tokenizer.normalizer else [])]
        tokenizer.normalizer = normalizers.Sequence(parts)
    return str(tokenizer.to_str())


def _converted_tokenizer(folder: Path) -> Tokenizer:
    from transformers import AutoTokenizer  # slow to import, and needed for old folders only

    loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    return Tokenizer.from_str(loaded.backend_tokenizer.to_str())


def _digest_weights(folder: Path, *, sha256: str | None = None) -> str:
    """SHA-256 of the folder's weight file, which must be there and, if `sha256` is given, be that one."""
    path = folder / WEIGHTS
    if not path.is_file():
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
        if pickles:
            raise UserError(
                f"{folder}: weights must be a {WEIGHTS}, and pickles, which can run code, are never read: found "
                f"{', '.join(pickles)}; load the model where you trust it and call save_pretrained(folder)"
            )
        raise UserError(f"{folder}: {WEIGHTS} is missing; {DOWNLOAD_AGAIN}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 is not None and digest != sha256:
        raise UserError(
            f"{path}: its SHA-256 must be the study's {sha256}, got {digest}; {DOWNLOAD_AGAIN}, or correct the study "
            "if these are the weights that you mean"
        )
    return digest


class _Checkpoint:
    """A safetensors file from which tensors are taken by name, in float32."""

    def __init__(self, path: Path, *, prefix: str) -> None:
        self._path = path
        self._prefix = prefix
        self._file: Any  # safetensors has no types
        try:
            self._file = safe_open(path, framework="pt", device=str(CPU))
        except SafetensorError as error:
            raise UserError(f"{path} is damaged: {error}; {DOWNLOAD_AGAIN}") from None
        self._names = frozenset(self._file.keys())

    def take(self, name: str) -> NDArray[np.float32]:
        """The tensor, with or without the prefix, also under its old name: norms once had gamma and beta."""
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        for candidate in (name, self._prefix + name, old, self._prefix + old):
            if candidate in self._names:
                array: NDArray[np.float32] = to_array(self._file.get_tensor(candidate).to(torch.float32))
                return array
        raise UserError(f"{self._path}: the tensor {name} is missing; {DOWNLOAD_AGAIN}")


def _check(spec: StudentSpec, weights: Mapping[str, NDArray[np.float32]], *, origin: str) -> None:
    for name, shape in expected_tensors(spec).items():
        if weights[name].shape != shape:
            raise UserError(
                f"{origin}: {name} must have the shape {shape} by the configuration, got {weights[name].shape}; "
                f"{DOWNLOAD_AGAIN}"
            )
        if not np.isfinite(weights[name]).all():
            raise UserError(f"{origin}: {name} holds values that are NaN or infinite; {DOWNLOAD_AGAIN}")
