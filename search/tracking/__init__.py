# SPDX-License-Identifier: Apache-2.0
"""Everything that knows MLflow: runs, models, the registry, and what it means when a server does not answer."""
