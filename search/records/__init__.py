# SPDX-License-Identifier: Apache-2.0
"""Plain values that the rooms exchange: trials, fronts, scores."""
