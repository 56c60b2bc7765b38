# SPDX-License-Identifier: Apache-2.0
"""How a student runs: student folders, tokenizers, the native engine and NumPy; neither torch nor ray.

Names are imported when they are first used, so that `understudy --help` does not load the engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.encoder import Encoder
    from runtime.engine import Engine, InstructionSet, engine_identity, instruction_sets
    from runtime.folder import StudentFolder, expected_tensors, read_folder, write_folder
    from runtime.loading import load, load_exact
    from runtime.tokenizer import SentenceTokenizer

__all__ = [
    "Encoder",
    "Engine",
    "InstructionSet",
    "SentenceTokenizer",
    "StudentFolder",
    "engine_identity",
    "expected_tensors",
    "instruction_sets",
    "load",
    "load_exact",
    "read_folder",
    "write_folder",
]

_MODULES = {
    "Encoder": "encoder",
    "Engine": "engine",
    "InstructionSet": "engine",
    "SentenceTokenizer": "tokenizer",
    "StudentFolder": "folder",
    "engine_identity": "engine",
    "expected_tensors": "folder",
    "instruction_sets": "engine",
    "load": "loading",
    "load_exact": "loading",
    "read_folder": "folder",
    "write_folder": "folder",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"runtime.{_MODULES[name]}"), name)
