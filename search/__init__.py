# SPDX-License-Identifier: Apache-2.0
"""How the good students are found: Ray Tune drives trials, Optuna proposes and prunes, MLflow keeps the front.

What the command line does, as functions for notebooks. Each is imported when it is first used:

    from search import Store, load_study, run_search

    front = run_search(load_study("quickstart"), store=Store("understudy-store"))
"""

from __future__ import annotations

TYPE_CHECKING = False  # as `typing` has it, which is not imported: the import of this package takes a millisecond

if TYPE_CHECKING:
    from typing import Any

    from search.cli.ui import serve_ui
    from search.cli.watch import watch
    from search.export.embed import embed_file
    from search.export.formats import export_model
    from search.report.page import write_report
    from search.storage.store import Store
    from search.study.preflight import validate_study
    from search.study.run import run_search
    from search.tracking.registry import load_front, resolve_model, set_alias
    from search.tracking.select import select
    from spaces.study import load_study

_MODULES = {
    "Store": "search.storage.store",
    "embed_file": "search.export.embed",
    "export_model": "search.export.formats",
    "load_front": "search.tracking.registry",
    "load_study": "spaces.study",
    "resolve_model": "search.tracking.registry",
    "run_search": "search.study.run",
    "select": "search.tracking.select",
    "serve_ui": "search.cli.ui",
    "set_alias": "search.tracking.registry",
    "validate_study": "search.study.preflight",
    "watch": "search.cli.watch",
    "write_report": "search.report.page",
}

__all__ = [
    "Store",
    "embed_file",
    "export_model",
    "load_front",
    "load_study",
    "resolve_model",
    "run_search",
    "select",
    "serve_ui",
    "set_alias",
    "validate_study",
    "watch",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
