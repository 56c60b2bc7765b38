# SPDX-License-Identifier: Apache-2.0
"""Initialises students from their teacher's weights."""
