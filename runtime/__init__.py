# SPDX-License-Identifier: Apache-2.0
"""How a student runs: student folders, tokenizers and encoders that need neither torch nor ray."""

from runtime.folder import StudentFolder, expected_tensors, read_folder, write_folder

__all__ = ["StudentFolder", "expected_tensors", "read_folder", "write_folder"]
