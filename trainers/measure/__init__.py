# SPDX-License-Identifier: Apache-2.0
"""Measures fidelity and latency, and predicts latency."""
