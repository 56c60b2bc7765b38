# SPDX-License-Identifier: Apache-2.0
"""Registered students, written for use elsewhere. Nothing is imported here: `embed` runs where only serving is
installed."""
