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
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.folder import expected_tensors
from spaces.errors import UserError
from spaces.student import StudentSpec
from spaces.study.spec import SourceKind, TeacherSpec
from trainers.modules.build import student_from_weights
from trainers.modules.device import CPU
from trainers.teacher.checkpoint import Checkpoint
from trainers.teacher.config_file import DOWNLOAD_AGAIN, ConfigFile
from trainers.teacher.layout import read_layout
from trainers.teacher.locate import model_folder, model_name, package_folder
from trainers.teacher.tokenizer import read_tokenizer, with_rows
from trainers.teacher.weights import encoder_spec, encoder_weights, family_of
from trainers.text.hub import download_model

if TYPE_CHECKING:
    from trainers.modules.student import Student


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
    similarity: str = "cosine"
    """Function by which its vectors are compared: cosine, dot, euclidean or manhattan."""

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
    name = model_name(folder) if spec.kind is SourceKind.FOLDER else spec.reference.rpartition("/")[2]
    return read_teacher(folder, name=name, source=spec.source, sha256=spec.sha256)


def read_teacher(folder: Path, *, name: str, source: str, sha256: str | None = None) -> Teacher:
    """The teacher in a folder of transformers' or sentence-transformers' layout."""
    folder = model_folder(folder)
    layout = read_layout(folder)
    body = layout.transformer
    if body != folder and body.is_dir():
        model_folder(body)
    config = ConfigFile(body / "config.json")
    family = family_of(config)
    tensors = Checkpoint(body, prefix=family.prefix, sha256=sha256)
    digest = tensors.sha256
    encoder = encoder_spec(config, pooling=layout.pooling, projection=layout.projection)
    tokenizer = read_tokenizer(body, lowercase=layout.lowercase, settings=layout.tokenizer_settings)

    weights = encoder_weights(tensors.take, config, encoder)
    output_dim = encoder.width
    if layout.dense is not None:
        dense = Checkpoint(layout.dense)
        digest = hashlib.sha256(f"{digest} {dense.sha256}".encode()).hexdigest()
        sizes = ConfigFile(layout.dense / "config.json")
        weights["projection.weight"] = dense.take("linear.weight")
        output_dim = sizes.integer("out_features") or len(weights["projection.weight"])
        has_bias = sizes.boolean("bias") is not False
        weights["projection.bias"] = dense.take("linear.bias") if has_bias else np.zeros(output_dim, np.float32)
    spec = StudentSpec(
        vocabulary_size=len(weights["embeddings.tokens"]),
        output_dim=output_dim,
        encoder=encoder,
        normalise=layout.normalise,
    )
    _check(spec, weights, origin=str(folder))
    tokenizer_json = with_rows(tokenizer.json, spec.vocabulary_size, folder=body)
    return Teacher(
        name=name,
        source=source,
        spec=spec,
        weights=weights,
        tokenizer_json=tokenizer_json,
        weights_sha256=digest,
        max_tokens=min(encoder.max_tokens, tokenizer.max_tokens or encoder.max_tokens),
        similarity=layout.similarity,
    )


def _check(spec: StudentSpec, weights: Mapping[str, NDArray[np.float32]], *, origin: str) -> None:
    for name, shape in expected_tensors(spec).items():
        if weights[name].shape != shape:
            raise UserError(
                f"{origin}: {name} must have the shape {shape} by the configuration, got {weights[name].shape}; "
                f"{DOWNLOAD_AGAIN}"
            )
        if not np.isfinite(weights[name]).all():
            raise UserError(f"{origin}: {name} holds values that are NaN or infinite; {DOWNLOAD_AGAIN}")
