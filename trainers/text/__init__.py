# SPDX-License-Identifier: Apache-2.0
"""Text: its sources, sentences, tokens and batches."""
