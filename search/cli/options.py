# SPDX-License-Identifier: Apache-2.0
"""Argument types for argparse: each converts a text, or raises an error that says the rule, then the value."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spaces.fields import parse_duration, require_name


def _argument(
    rule: str, convert: Callable[[str], Any], accepts: Callable[[Any], bool] = lambda value: True
) -> Callable[[str], Any]:
    """An argparse type that returns `convert(text)` if `accepts` it, else reports that the argument must be `rule`."""

    def read(text: str) -> Any:
        try:
            value = convert(text)
            if accepts(value):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"must be {rule}, got {text!r}")

    return read


count = _argument("a whole number of at least 1", int, lambda value: value >= 1)
seed = _argument("a whole number from 0 to 4294967295", int, lambda value: 0 <= value < 2**32)
port = _argument("a whole number from 1 to 65535", int, lambda value: 1 <= value <= 65535)
positive = _argument("a finite number above 0", float, lambda value: math.isfinite(value) and value > 0.0)
finite = _argument("a finite number", float, math.isfinite)
store_folder = _argument("a folder's path", Path, lambda value: value != Path())
duration = _argument("a positive duration such as 90s, 10m or 2h", parse_duration)


def address(text: str) -> str:
    """The address of a Ray cluster."""
    from search.study.preflight import require_address

    try:
        return require_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def tracking(text: str) -> str:
    """The tracking URI of MLflow."""
    from search.storage.tracking_uri import require_tracking_uri

    try:
        return require_tracking_uri(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def named(kind: str) -> Callable[[str], str]:
    """An argparse type for the name of a `kind`: a study or an alias."""

    def read(text: str) -> str:
        try:
            return require_name(kind, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read
