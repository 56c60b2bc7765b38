# SPDX-License-Identifier: Apache-2.0
"""Runs one study from preparation to registration."""
