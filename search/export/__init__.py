# SPDX-License-Identifier: Apache-2.0
"""Exports students to other formats and embeds files with them. Nothing is imported here, so that `embed` runs with
only the `serve` dependencies installed."""
