# SPDX-License-Identifier: Apache-2.0
"""Distillation: losses, optimiser, the loop and its checkpoints."""
