# SPDX-License-Identifier: Apache-2.0
"""How a student runs: student folders, tokenizers, the native engine and NumPy; neither torch nor ray."""

from runtime.encoder import Encoder
from runtime.engine import Engine, InstructionSet, instruction_sets
from runtime.folder import StudentFolder, expected_tensors, read_folder, write_folder
from runtime.load import load, load_exact
from runtime.tokenizer import SentenceTokenizer

__all__ = [
    "Encoder",
    "Engine",
    "InstructionSet",
    "SentenceTokenizer",
    "StudentFolder",
    "expected_tensors",
    "instruction_sets",
    "load",
    "load_exact",
    "read_folder",
    "write_folder",
]
