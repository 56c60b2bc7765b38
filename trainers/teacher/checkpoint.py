# SPDX-License-Identifier: Apache-2.0
"""A teacher's weights: model.safetensors, or the files that model.safetensors.index.json lists; never pickles."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from spaces.errors import UserError
from trainers.modules.device import CPU, to_array
from trainers.teacher.config_file import DOWNLOAD_AGAIN, ConfigFile

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5")
OTHER_FORMATS = (".gguf", ".onnx", ".msgpack", ".ot", ".tflite")
FLOATS = ("F64", "F32", "F16", "BF16")
_SHOWN = 3  # names in a message


class Checkpoint:
    """The weights of a folder, from which tensors are taken by name, in float32."""

    def __init__(self, folder: Path, *, prefix: str = "", sha256: str | None = None) -> None:
        """`prefix` is what a checkpoint with a task head puts before every tensor name.

        Raises ValueError if files are missing, damaged, or not those of `sha256` (checked before they are opened).
        """
        self._folder = folder
        self._prefix = prefix
        files = weight_files(folder)
        self.sha256 = _digest(files)
        if sha256 is not None and self.sha256 != sha256:
            of = "" if len(files) == 1 else f" (of what `sha256sum {INDEX} model-*.safetensors` prints)"
            raise UserError(
                f"{files[0]}: its SHA-256{of} must be the study's {sha256}, got {self.sha256}; {DOWNLOAD_AGAIN}, or "
                "correct the study if these are the weights that you mean"
            )
        self._files: dict[str, Any] = {}  # the open file of each tensor; safetensors has no types
        for path in files:
            if path.suffix == ".json":
                continue
            try:
                opened: Any = safe_open(path, framework="pt", device=str(CPU))
            except SafetensorError as error:
                raise UserError(f"{path} is damaged: {error}; {DOWNLOAD_AGAIN}") from None
            self._files |= dict.fromkeys(opened.keys(), opened)

    def take(self, name: str) -> NDArray[np.float32]:
        """The tensor, with or without the prefix, also under its old name: norms once had gamma and beta."""
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        for candidate in (name, self._prefix + name, old, self._prefix + old):
            if candidate in self._files:
                return self._read(candidate)
        raise UserError(f"{self._folder}: the tensor {name} is missing from its weights; {DOWNLOAD_AGAIN}")

    def _read(self, name: str) -> NDArray[np.float32]:
        file = self._files[name]
        kind = file.get_slice(name).get_dtype()
        if kind not in FLOATS:
            raise UserError(
                f"{self._folder}: the tensor {name} must be of {', '.join(FLOATS)}, got {kind}; a quantised teacher "
                "cannot be read: save the model in float32"
            )
        array: NDArray[np.float32] = to_array(file.get_tensor(name).to(torch.float32))
        return array


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors: one file, or the index and the files that it lists. Raises ValueError if one lacks."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return [folder / INDEX, *_shards(folder)]
    found = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    pickles = [name for name in found if name.endswith(PICKLES)]
    if pickles:
        raise UserError(
            f"{folder}: weights must be a {WEIGHTS}, and pickles, which can run code, are never read: found "
            f"{', '.join(pickles)}; load the model where you trust it and call save_pretrained(folder)"
        )
    others = [name for name in found if name.endswith((*OTHER_FORMATS, ".safetensors"))]
    if others:
        raise UserError(
            f"{folder}: weights must be a {WEIGHTS}, found {_few(others)}; load the model where it can be and call "
            "save_pretrained(folder)"
        )
    raise UserError(f"{folder}: {WEIGHTS} is missing; {DOWNLOAD_AGAIN}")


def _shards(folder: Path) -> list[Path]:
    index = ConfigFile(folder / INDEX)
    names = list(index.table("weight_map").values())
    if not names or not all(isinstance(name, str) for name in names):
        raise index.wrong("weight_map", "an object with the name of a file for each tensor")
    shards = sorted(set(names))
    outside = [name for name in shards if Path(name).name != name or not name.endswith(".safetensors")]
    if outside:
        raise UserError(
            f"{index.path}: weight_map must name safetensors files of its folder, got {_few(outside)}; {DOWNLOAD_AGAIN}"
        )
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of the {len(shards)} weight files that {INDEX} lists are missing: "
            f"{_few(missing)}; {DOWNLOAD_AGAIN}"
        )
    return [folder / name for name in shards]


def _digest(files: Sequence[Path]) -> str:
    """SHA-256 of one file; of several, that of what `sha256sum` prints for them."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(files) == 1:
        return digests[0]
    lines = [f"{digest}  {path.name}\n" for digest, path in zip(digests, files, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
