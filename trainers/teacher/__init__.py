# SPDX-License-Identifier: Apache-2.0
"""Teachers: loading, forward pass and the cache of their outputs."""
