# SPDX-License-Identifier: Apache-2.0
"""Reads JSON objects that another version may have written.

A stored object carries a format number, which increases with every incompatible change; without one it is
0. Unknown keys are ignored, and a missing one has its field's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from spaces.errors import UserError

KEY = "format"
"""Key of the format number in a stored object."""


def require_format(document: Mapping[str, Any], newest: int, *, what: str) -> None:
    """Raises ValueError for an object that a newer version wrote, in a format that this one cannot read.

    `what` names the object in the message.
    """
    found = document.get(KEY, 0)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= newest:
        raise UserError(
            f"{what} is read up to format {newest}, got format {found!r}; use the version of understudy that wrote it, "
            "or another --name or --store"
        )


def known_fields(cls: type, document: Mapping[str, Any], *, what: str) -> dict[str, Any]:
    """The entries of a stored object that are fields of the dataclass `cls`.

    Raises ValueError, with the names, if fields without a default are missing; `what` names the object.
    """
    if not isinstance(document, Mapping):
        raise UserError(f"{what} is a JSON object, got {document!r}; measure it again")
    parts = fields(cls)
    needed = [part.name for part in parts if part.default is MISSING and part.default_factory is MISSING]
    missing = [name for name in needed if name not in document]
    if missing:
        raise UserError(f"{what} needs {', '.join(missing)}, got only {', '.join(document)}; measure it again")
    return {part.name: document[part.name] for part in parts if part.name in document}
