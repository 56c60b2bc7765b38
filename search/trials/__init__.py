# SPDX-License-Identifier: Apache-2.0
"""Trials: the brief distillation of many students, in an Optuna study whose trials Ray Tune runs."""
