# SPDX-License-Identifier: Apache-2.0
"""Before anything is imported: one thread, no network, no telemetry, and shapes checked while tests run."""

from __future__ import annotations

import os
import signal

os.environ.update(
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
    RAY_USAGE_STATS_ENABLED="0",
    TOKENIZERS_PARALLELISM="false",
)
os.environ.pop("UNDERSTUDY_STORE", None)
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("COLUMNS", None)  # tables to a pipe are as wide as they need to be

# After the environment: what is imported from here on reads it.
from jaxtyping import install_import_hook

import tests.shape_check  # noqa: F401  (the hook names it, and does not import it)

install_import_hook(["runtime", "trainers"], "tests.shape_check.check")

# A shell ignores SIGINT in what it starts in the background, and nohup SIGHUP; tests send both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
