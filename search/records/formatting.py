# SPDX-License-Identifier: Apache-2.0
"""Numbers and conditions in words, the same in tables, charts and messages; no number has an exponent."""

from __future__ import annotations

import math

from spaces.profile import LatencyProfile


def describe_profile(profile: LatencyProfile) -> str:
    """`torch, batch 1, 32 tokens, 1 thread`."""
    threads = "1 thread" if profile.n_threads == 1 else f"{profile.n_threads} threads"
    return f"{profile.runtime.value}, batch {profile.batch_size}, {profile.n_tokens} tokens, {threads}"


def format_significant(value: float) -> str:
    """Three significant digits: `0.00332`, `2.40`, `152`, `3,290`; `inf` and `nan` as they are."""
    if value == 0.0 or not math.isfinite(value):
        return f"{value:g}"
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(f'{digits}e{exponent}'):,.{max(0, 2 - int(exponent))}f}"


def format_ms(value: float) -> str:
    """Milliseconds without their unit: `0.0312`, `2.40`, `152`."""
    return format_significant(value)


def format_speedup(value: float) -> str:
    """How many times as fast as the teacher: `3,290x`, `19.3x`."""
    return f"{format_significant(value)}x"


def format_megabytes(n_bytes: float) -> str:
    """Megabytes without their unit: `88.0`."""
    return format_significant(n_bytes / 1e6)


def format_tick(value: float) -> str:
    """The number of an axis in full: `0.00005`, `0.2`, `1,000,000`."""
    shown = f"{value:,.12f}"
    return shown.rstrip("0").rstrip(".")
