# SPDX-License-Identifier: Apache-2.0
"""Errors of whoever uses the project, told apart from errors of the project itself."""

from __future__ import annotations


class UserError(ValueError):
    """What was given cannot be used, or the world is not as the command needs it; the message says what to change.

    The command line shows the message alone. Any other ValueError comes from inside: from a library, or from a mistake
    of ours, and is reported with its traceback.
    """
