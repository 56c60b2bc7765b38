# SPDX-License-Identifier: Apache-2.0
"""A student over HTTP, as OpenAI's embeddings API."""
