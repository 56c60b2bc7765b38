# SPDX-License-Identifier: Apache-2.0
"""The runtimes that there are: from the name in a study file to its Backend. How to add one: docs/extending.md."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from spaces.profile import Runtime
from trainers.measure.backends.backend import Backend


@cache
def backend_of(runtime: Runtime) -> Backend:
    """`BACKEND` of the module `NAME_backend` beside this one, imported now; the packages that it needs are not before
    it builds a student."""
    backend: Backend = import_module(f"trainers.measure.backends.{runtime}_backend").BACKEND
    return backend
