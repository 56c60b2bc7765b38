# SPDX-License-Identifier: Apache-2.0
"""The HTML report of a study: its front and its search, computed from the store."""
