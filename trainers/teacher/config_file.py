# SPDX-License-Identifier: Apache-2.0
"""A JSON file of a model, read key by key: a wrong value is one message with file, key, value and remedy.

A key that is missing or null is None; `required` refuses that. Nothing is converted: `"32"` is text, not a number.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from spaces.errors import UserError
from spaces.student import MAX_ROWS

DOWNLOAD_AGAIN = "download the teacher again"
_SHOWN = 200  # characters of a wrong value
_LARGEST = 1e300  # of a number

T = TypeVar("T")


class ConfigFile:
    """The JSON object in a file."""

    def __init__(self, path: Path, *, is_optional: bool = False) -> None:
        """An optional file that does not exist holds nothing.

        Raises ValueError if the file is missing, is not JSON, or holds something else than an object.
        """
        self.path = path
        values = {} if is_optional and not path.exists() else read_json(path)
        if not isinstance(values, dict):
            raise UserError(f"{path} must hold a JSON object, got {kind_of(values)}; {DOWNLOAD_AGAIN}")
        self.values: dict[str, Any] = values

    def required(self, key: str, value: T | None) -> T:
        """The value that one of the other methods returned for the key, if there is one."""
        if value is None:
            what = "missing" if key not in self.values else "null"
            raise UserError(f"{self.path}: {key} is {what}; add it, or {DOWNLOAD_AGAIN}")
        return value

    def integer(self, key: str, *, low: int = 1, high: int = MAX_ROWS) -> int | None:
        """An integer from `low` to `high`."""
        value = self.values.get(key)
        if value is None or (type(value) is int and low <= value <= high):
            return value
        raise self.wrong(key, f"an integer from {low} to {high}")

    def positive(self, key: str) -> int | float | None:
        """A number greater than 0; transformers writes large ones for "no limit"."""
        value = self.values.get(key)
        if value is None or (type(value) in (int, float) and 0 < value < _LARGEST):
            return value
        raise self.wrong(key, "a number greater than 0")

    def boolean(self, key: str) -> bool | None:
        """True or false."""
        value = self.values.get(key)
        if value is None or type(value) is bool:
            return value
        raise self.wrong(key, "true or false")

    def text(self, key: str, *, choices: Collection[str] = (), remedy: str | None = None) -> str | None:
        """A text, one of the choices if there are any."""
        value = self.values.get(key)
        if value is None or (isinstance(value, str) and (value in choices or not choices)):
            return value
        rule = ", ".join(choices) or "a text"
        raise self.wrong(key, f"one of {rule}" if len(choices) > 1 else rule, remedy=remedy)

    def table(self, key: str) -> dict[str, Any]:
        """An object; empty if there is none."""
        value = self.values.get(key)
        if value is None or isinstance(value, dict):
            return value or {}
        raise self.wrong(key, "an object")

    def wrong(self, key: str, rule: str, *, remedy: str | None = None) -> UserError:
        """The error for a key whose value breaks the rule ("an integer from 1 to 9")."""
        value = self.values.get(key)
        if remedy is None:
            remedy = f"correct it, or {DOWNLOAD_AGAIN}"
            if isinstance(value, str) and _is_json_value(value):
                remedy = "write it without quotation marks"
        return UserError(f"{self.path}: {key} must be {rule}, got {kind_of(value)}; {remedy}")


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises ValueError if it is missing or not JSON."""
    if not path.is_file():
        raise UserError(f"{path} is missing; give a complete folder of a transformers or sentence-transformers model")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}; {DOWNLOAD_AGAIN}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply; {DOWNLOAD_AGAIN}") from None


def kind_of(value: Any) -> str:
    """A JSON value as messages show it, with its kind where it could be mistaken."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case str():
            return f"{'the text ' if _is_json_value(value) else ''}{value[:_SHOWN]!r}"
        case dict() if len(value) > 3:
            return f"an object of {len(value)} entries"
        case list() if len(value) > 10:
            return f"a list of {len(value)} entries"
        case _:
            return repr(value)[:_SHOWN]


def _is_json_value(text: str) -> bool:
    """Whether a text is a number, true, false or null between quotation marks."""
    try:
        return not isinstance(json.loads(text.strip().lower()), str | list | dict)
    except (ValueError, RecursionError):
        return False
