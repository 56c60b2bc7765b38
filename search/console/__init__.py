# SPDX-License-Identifier: Apache-2.0
"""Terminal output: tables and progress."""
