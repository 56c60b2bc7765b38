# SPDX-License-Identifier: Apache-2.0
"""A file's array that travels as its path: workers map the file again instead of copying gigabytes.

For what is too large for memory, such as a teacher's queries, keys and values of every token. The file must be where
every worker sees it, as the store is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class MappedArray(np.memmap):
    """A whole file, mapped read-only; pickled as its path, type and shape. Parts of it are ordinary arrays."""

    def __reduce__(self) -> Any:
        """Its path, if it is the whole file; else its values."""
        if self.base is None or not isinstance(self.base, np.ndarray):
            return (open_mapped, (str(self.filename), self.dtype.str, self.shape))
        return np.asarray(self).__reduce__()


def open_mapped(path: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """The array in a file of exactly this type; `shape` may leave the file's last rows out."""
    return MappedArray(Path(path), dtype=np.dtype(dtype), mode="r", shape=shape)


def by_path(array: NDArray[Any] | None) -> NDArray[Any] | None:
    """The same mapped array, to be shipped by its path; arrays that are not mapped stay as they are."""
    if not isinstance(array, np.memmap) or array.offset or array.filename is None:
        return array
    return open_mapped(str(array.filename), array.dtype.str, array.shape)
