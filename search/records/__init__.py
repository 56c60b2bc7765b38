# SPDX-License-Identifier: Apache-2.0
"""Plain values that the packages of search exchange: trials, fronts, scores."""
