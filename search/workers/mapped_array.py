# SPDX-License-Identifier: Apache-2.0
"""Memory-mapped arrays that are pickled as the path of their file: workers map the file instead of copying gigabytes.

For arrays larger than memory, such as a teacher's queries, keys and values of every token. Every worker must see the
file under the same path, as it does in the store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class MappedArray(np.memmap):
    """A whole file, mapped read-only; pickled as its path, dtype and shape. Slices are pickled by value."""

    def __reduce__(self) -> Any:
        """Pickles the path for a whole file, the values for a slice."""
        if self.base is None or not isinstance(self.base, np.ndarray):
            return (open_mapped, (str(self.filename), self.dtype.str, self.shape))
        return np.asarray(self).__reduce__()


def open_mapped(path: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """The array in a file, mapped read-only; `shape` may leave out the file's last rows."""
    return MappedArray(Path(path), dtype=np.dtype(dtype), mode="r", shape=shape)


def by_path(array: NDArray[Any] | None) -> NDArray[Any] | None:
    """The same array as a `MappedArray` if it is a mapped whole file; else the argument."""
    if not isinstance(array, np.memmap) or array.offset or array.filename is None:
        return array
    return open_mapped(str(array.filename), array.dtype.str, array.shape)
