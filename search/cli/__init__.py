# SPDX-License-Identifier: Apache-2.0
"""The command line: one function of the other rooms for each command."""
