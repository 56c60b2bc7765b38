# SPDX-License-Identifier: Apache-2.0
"""HTTP service of a student with OpenAI's embeddings API."""
