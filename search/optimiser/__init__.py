# SPDX-License-Identifier: Apache-2.0
"""A sampler and a pruner for fronts of cost and error, on Optuna, NumPy and SciPy alone."""
