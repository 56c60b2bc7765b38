# SPDX-License-Identifier: Apache-2.0
"""Numbers and conditions in words, the same in tables, charts and messages."""

from __future__ import annotations

from spaces.profile import LatencyProfile


def describe_profile(profile: LatencyProfile) -> str:
    """`torch, batch 1, 32 tokens, 1 thread`."""
    threads = "1 thread" if profile.n_threads == 1 else f"{profile.n_threads} threads"
    return f"{profile.runtime.value}, batch {profile.batch_size}, {profile.n_tokens} tokens, {threads}"


def format_ms(value: float) -> str:
    """Milliseconds with three significant digits and no exponent: `0.0312`, `2.40`, `152`."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}" if value >= 0.1 else f"{value:.4f}"
