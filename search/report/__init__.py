# SPDX-License-Identifier: Apache-2.0
"""A search and its front as one page, computed from what the store holds."""
