# SPDX-License-Identifier: Apache-2.0
"""A student's start from its teacher's weights."""
