# SPDX-License-Identifier: Apache-2.0
"""Tracking in MLflow: runs, logged models, the model registry, and errors of a tracking server."""
