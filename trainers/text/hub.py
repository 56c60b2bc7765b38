# SPDX-License-Identifier: Apache-2.0
"""Downloads from the Hugging Face Hub: plain files of a model and rows of a data set, never code or pickles.

Downloads go through the hub's own cache and happen once. Errors of the hub's
libraries are raised as one ValueError with the remedy.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from spaces.errors import UserError

if TYPE_CHECKING:
    import datasets

_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_SHARDS = "model-?????-of-?????.safetensors"
_WEIGHTS = ["model.safetensors", "*/model.safetensors", _SHARDS, f"*/{_SHARDS}"]
_MODEL_FILES = ["*.json", *_WEIGHTS, "*vocab.txt", "*merges.txt", "*bpe.model"]
_OTHER_RUNTIMES = ["onnx/*", "openvino/*"]
_OFFLINE = "check its name and the connection (HF_HUB_OFFLINE=1 allows only what was downloaded before)"


def require_hub_id(kind: str, value: str) -> str:
    """The value, when it is a hub id: NAME or ORGANISATION/NAME; ValueError otherwise."""
    if _ID.fullmatch(value) is None or ".." in value or "--" in value:
        raise UserError(f"{kind} must be NAME or ORGANISATION/NAME on the Hugging Face Hub, got {value[:200]!r}")
    return value


def download_model(name: str, *, cache_dir: Path | None = None, offline: bool = False) -> Path:
    """The folder of a hub model's configuration, tokenizer and safetensors files.

    `cache_dir` None is the hub's own cache; `offline` uses only what that holds.
    """
    require_hub_id("a teacher on the hub", name)
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            name,
            allow_patterns=_MODEL_FILES,
            ignore_patterns=_OTHER_RUNTIMES,
            cache_dir=cache_dir,
            local_files_only=offline,
        )
    except Exception as error:  # unknown, private, unreachable, offline: of huggingface_hub and of its HTTP client
        raise UserError(f"the teacher {name!r} cannot be had from the hub: {_first_line(error)}; {_OFFLINE}") from None
    return Path(folder)


def load_dataset(name: str, *, configuration: str | None, split: str | None) -> datasets.Dataset:
    """One split (None: train) of a hub data set, in the cache of `datasets`."""
    require_hub_id("a data set on the hub", name)
    import datasets  # imports pandas and more, which other sources need not wait for

    try:
        return datasets.load_dataset(name, configuration, split=split or "train")
    except Exception as error:  # as in download_model, or an unknown split or configuration
        raise UserError(
            f"the data set {name!r} cannot be had from the hub: {_first_line(error)}; check its split and "
            f"configuration, {_OFFLINE}"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
