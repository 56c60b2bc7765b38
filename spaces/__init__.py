# SPDX-License-Identifier: Apache-2.0
"""What a student can be: specs, spaces and studies, declared without torch."""
