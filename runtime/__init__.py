# SPDX-License-Identifier: Apache-2.0
"""How a student runs: student folders, tokenizers and encoders that need neither torch nor ray."""

from runtime.encoder import Encoder, load
from runtime.folder import StudentFolder, expected_tensors, read_folder, write_folder
from runtime.tokenizer import SentenceTokenizer

__all__ = ["Encoder", "SentenceTokenizer", "StudentFolder", "expected_tensors", "load", "read_folder", "write_folder"]
