# SPDX-License-Identifier: Apache-2.0
"""The brief distillation of many students: an Optuna study, driven by Ray Tune."""
