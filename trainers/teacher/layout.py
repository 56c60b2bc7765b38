# SPDX-License-Identifier: Apache-2.0
"""How a teacher's folder is laid out: a plain transformers folder, or modules.json of sentence-transformers.

The second says how sentences are pooled, projected and normalised. What students do not support (other poolings,
a prompt before every text, further modules) raises ValueError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaces.errors import UserError
from spaces.student import Pooling, Projection

DOWNLOAD_AGAIN = "download the teacher again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Paths of a folder's encoder and projection, and how sentences are pooled and normalised."""

    transformer: Path
    """Folder of the encoder and the tokenizer."""
    pooling: Pooling = Pooling.MEAN
    dense: Path | None = None
    """Folder of the projection; None: no projection."""
    projection: Projection | None = None
    normalise: bool = False
    max_tokens: int | None = None
    lowercase: bool = False


def read_layout(folder: Path) -> Layout:
    """The layout of a folder: modules.json if it has one, a plain encoder otherwise."""
    if not (folder / "modules.json").is_file():
        return Layout(transformer=folder, max_tokens=_tokenizer_limit(folder))
    origin = str(folder / "modules.json")
    modules = _read(folder / "modules.json")
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise UserError(f"{origin} must hold a list of modules; {DOWNLOAD_AGAIN}")
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    allowed = ["Transformer", "Pooling", *(["Dense"] if "Dense" in kinds else []), "Normalize"]
    if kinds not in (allowed, allowed[:-1]):
        raise UserError(
            f"{origin}: a teacher's modules must be Transformer, Pooling, at most one Dense, at most one Normalize, in "
            f"this order; got {', '.join(kinds)}; choose another teacher"
        )
    paths = {kind: _inside(folder, str(module.get("path", ""))) for kind, module in zip(kinds, modules, strict=True)}
    _refuse_default_prompt(folder)
    body = paths["Transformer"]
    settings = read_json(body / "sentence_bert_config.json") if (body / "sentence_bert_config.json").is_file() else {}
    dense = paths.get("Dense")
    return Layout(
        transformer=body,
        pooling=_pooling(read_json(paths["Pooling"] / "config.json"), origin=str(paths["Pooling"])),
        dense=dense,
        projection=None if dense is None else _projection(read_json(dense / "config.json"), origin=str(dense)),
        normalise="Normalize" in kinds,
        max_tokens=settings.get("max_seq_length") or _tokenizer_limit(body),
        lowercase=bool(settings.get("do_lower_case", False)),
    )


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise UserError(f"{folder / 'modules.json'}: a module's path must lie in the folder, got {name!r}")
    return path


def _refuse_default_prompt(folder: Path) -> None:
    path = folder / "config_sentence_transformers.json"
    settings = read_json(path) if path.is_file() else {}
    prompt = (settings.get("prompts") or {}).get(settings.get("default_prompt_name"))
    if prompt:
        raise UserError(
            f"{path}: a teacher must not put a prompt before every text, got {prompt!r}; set default_prompt_name to "
            "null, and write the prompt into the corpus where it is wanted"
        )


def _pooling(config: Mapping[str, Any], *, origin: str) -> Pooling:
    legacy = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [legacy.get(key, key) for key, value in config.items() if key.startswith("pooling_mode_") and value]
        modes = modes or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if modes not in (["mean"], ["cls"]):
        raise UserError(f"{origin}: a teacher's pooling must be mean or cls, got {modes}; choose another teacher")
    return Pooling(modes[0])


def _projection(config: Mapping[str, Any], *, origin: str) -> Projection:
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    kinds = {"Tanh": Projection.TANH, "Identity": Projection.LINEAR}
    if activation not in kinds or config.get("use_residual"):
        raise UserError(
            f"{origin}: a teacher's Dense layer must have the activation Tanh or Identity and no residual connection, "
            f"got {activation}; choose another teacher"
        )
    return kinds[activation]


def _tokenizer_limit(folder: Path) -> int | None:
    """The tokenizer's own limit; transformers writes a huge number for none."""
    path = folder / "tokenizer_config.json"
    limit = read_json(path).get("model_max_length") if path.is_file() else None
    return int(limit) if isinstance(limit, (int, float)) and 0 < limit < 1e9 else None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError if the file is missing or holds something else."""
    document = _read(path)
    if not isinstance(document, dict):
        raise UserError(f"{path} must hold a JSON object; {DOWNLOAD_AGAIN}")
    return document


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path} is missing; give a complete folder of a transformers or sentence-transformers model")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}; {DOWNLOAD_AGAIN}") from None
