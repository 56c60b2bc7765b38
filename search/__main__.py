# SPDX-License-Identifier: Apache-2.0
"""`python -m search` is the command `understudy`."""

from __future__ import annotations

import sys

from search.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
