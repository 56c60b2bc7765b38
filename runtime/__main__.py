# SPDX-License-Identifier: Apache-2.0
"""`python -m runtime FOLDER` serves a student where only the packages `runtime` and `spaces` are installed."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from runtime.service.limits import add_serving_options, serving_options
from spaces.errors import UserError

PROGRAM = "python -m runtime"
INTERNAL_ERROR = 1
BAD_INPUT = 2
INTERRUPTED = 130
_SERVE_MODULES = ("prometheus_client", "starlette", "uvicorn")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the student of a folder; the exit status: 0 after a signal, 2 for bad input, 1 for an internal error."""
    parser = _Parser(prog=PROGRAM, description="Serve a student's folder over HTTP, as OpenAI's embeddings API.")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="what `understudy export --format folder` wrote")
    add_serving_options(parser)
    options = parser.parse_args(arguments)
    try:
        from runtime.service.server import serve

        serve(options.folder, serving_options(options), say=say, announce=lambda address: print(address, flush=True))
        return 0
    except KeyboardInterrupt:
        say(f"{PROGRAM}: interrupted")
        return INTERRUPTED
    except ModuleNotFoundError as error:
        if error.name not in _SERVE_MODULES:
            raise
        say(f"{PROGRAM}: serving needs {error.name}, which is not installed; pip install 'understudy[serve]'")
        return BAD_INPUT
    except (UserError, OSError) as error:
        say(f"{PROGRAM}: {error}")
        return BAD_INPUT
    except Exception as error:
        say(f"{PROGRAM}: internal error, please report it: {type(error).__name__}: {error}\n{traceback.format_exc()}")
        return INTERNAL_ERROR


def say(text: str) -> None:
    """Print a message to stderr."""
    print(text, file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports an error in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{PROGRAM}: {message}; see `{self.prog} --help`\n")


if __name__ == "__main__":
    sys.exit(main())
