# SPDX-License-Identifier: Apache-2.0
"""Builds, trains and measures students with torch; no Ray, Optuna or MLflow."""
