# SPDX-License-Identifier: Apache-2.0
"""How we look for the good students: Ray Tune drives trials, Optuna chooses and prunes, MLflow keeps the front."""
