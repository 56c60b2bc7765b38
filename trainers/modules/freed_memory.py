# SPDX-License-Identifier: Apache-2.0
"""Returns freed memory to the operating system.

The C library keeps freed small blocks in its heap; after inheritance that is a gigabyte in every worker.
"""

from __future__ import annotations

import ctypes
import gc
import sys


def return_freed_memory() -> None:
    """Collect garbage and trim the heap of glibc; elsewhere only collect."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # musl has none
            trim(0)
