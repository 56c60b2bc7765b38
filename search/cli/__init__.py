# SPDX-License-Identifier: Apache-2.0
"""The command line: each command calls one function of another room."""
