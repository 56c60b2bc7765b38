# SPDX-License-Identifier: Apache-2.0
"""One study from beginning to end, and what is measured before and after its trials."""
