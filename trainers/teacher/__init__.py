# SPDX-License-Identifier: Apache-2.0
"""Teachers: their weights, their forward pass, and what they say of a text, kept."""
