# SPDX-License-Identifier: Apache-2.0
"""The longer distillation of the best students, on Ray Train."""
