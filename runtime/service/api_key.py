# SPDX-License-Identifier: Apache-2.0
"""The key that clients must send, from a file or the environment; never from the command line, which every user of the
machine can read (`ps`).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path

from spaces.errors import UserError

VARIABLE = "UNDERSTUDY_API_KEY"
MOST_CHARACTERS = 1024  # of a header's value that every proxy passes on

_KEY = re.compile(rb"[!-~]{1,%d}" % MOST_CHARACTERS)  # visible ASCII: what a header carries unchanged
_BEARER = re.compile(rb"bearer +([!-~]+) *", re.IGNORECASE)  # RFC 6750, 2.1; the scheme in any case: RFC 9110, 11.1


def read_api_key(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The key in a file, else in the variable UNDERSTUDY_API_KEY, else None: no key is needed.

    Raises UserError for a file that cannot be read, and for a key that is empty or cannot be sent in a header.
    """
    if file is not None:
        try:
            with file.open("rb") as opened:
                content = opened.read(MOST_CHARACTERS + 3)
        except OSError as error:
            raise UserError(
                f"--api-key-file must be a file that holds the key: {error.strerror}; write the key into a file"
            ) from None
        return _checked(content.removesuffix(b"\n").removesuffix(b"\r"), origin=f"the file {file}")
    if VARIABLE in environment:
        return _checked(environment[VARIABLE].encode(errors="surrogateescape"), origin=VARIABLE)
    return None


def is_authorised(headers: list[tuple[bytes, bytes]], key: str) -> bool:
    """Whether a request's headers (names in lower case) hold `Authorization: Bearer KEY`, once.

    The time that it takes does not depend on the key.
    """
    values = [value for name, value in headers if name == b"authorization"]
    match = _BEARER.fullmatch(values[0]) if len(values) == 1 else None
    given = b"" if match is None else match[1]
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(key.encode()).digest())


def _checked(key: bytes, *, origin: str) -> str:
    if not key:
        raise UserError(f"a key must not be empty, and {origin} is; write a key, or leave it out to serve without one")
    if _KEY.fullmatch(key) is None:
        raise UserError(
            f"a key is one line of 1 to {MOST_CHARACTERS} visible ASCII characters without spaces, and {origin} holds "
            "something else; write another, for example of `openssl rand -hex 32`"
        )
    return key.decode()
