# SPDX-License-Identifier: Apache-2.0
"""How a student is made and measured: torch, and neither Ray, Optuna nor MLflow."""
