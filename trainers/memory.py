# SPDX-License-Identifier: Apache-2.0
"""Memory that was freed, given back to the machine.

Training allocates blocks of ever changing sizes, and glibc keeps what lies between those in use: half a gigabyte for
a student of five layers. Asking for it costs milliseconds.
"""

from __future__ import annotations

import ctypes
import gc


def release_memory() -> None:
    """Frees what nothing refers to and returns it to the operating system; where glibc is missing, only the first."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return
