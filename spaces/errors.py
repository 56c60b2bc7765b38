# SPDX-License-Identifier: Apache-2.0
"""The error type for invalid user input, as opposed to internal errors."""

from __future__ import annotations


class UserError(ValueError):
    """Invalid input, or an environment in which the command cannot run; the message says what to change.

    The command line shows the message alone. Any other ValueError is an internal error, of this project or a
    library, and is reported with its traceback.
    """
