# SPDX-License-Identifier: Apache-2.0
"""The command line's entry point: parses arguments, runs one command, turns errors into messages and exit statuses.

    search    search.study.run.run_search
    watch     search.cli.watch.watch
    front     search.tracking.registry.load_front
    select    search.tracking.select.select, search.tracking.registry.set_alias
    export    search.export.formats.export_model
    embed     search.export.embed.embed_file
    serve     runtime.service.server.serve
    report    search.report.page.write_report
    ui        search.cli.ui.serve_ui
    validate  search.study.preflight.validate_study
    doctor    runtime.doctor.diagnose

What a command is asked for goes to stdout, messages go to stderr. Exit status: 0; 2 for bad input, a full disk or files
that must not be written, with one message; 1 for an internal error, whose traceback is written to the store; 130 after
Ctrl-C, SIGTERM or SIGHUP, once the command has shut down.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from runtime.signals import end_at_once, ending_signals
from search.cli import commands
from search.cli.commands import say, store_of
from search.cli.parser import BAD_INPUT, PROGRAM, build_parser, join_negative
from search.storage.disk_space import disk_full_explained, is_disk_full
from search.storage.write_protection import write_protection_explained
from spaces.errors import UserError

INTERNAL_ERROR = 1
INTERRUPTED = 130
_SEARCH_MODULES = ("datasets", "jaxtyping", "mlflow", "optuna", "pandas", "pyarrow", "ray", "rich", "scipy", "torch")
_EXTRAS = {
    "search": {*_SEARCH_MODULES, "huggingface_hub", "requests", "transformers"},
    "serve": {"prometheus_client", "starlette", "threadpoolctl", "uvicorn"},
    "export": {"onnx", "onnxruntime", "onnxscript", "sentence_transformers"},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; `arguments` None is `sys.argv[1:]`."""
    options: argparse.Namespace | None = None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names may hold letters that the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    try:
        options = build_parser().parse_args(join_negative(sys.argv[1:] if arguments is None else arguments))
        folders = _output_folders(options)
        with ending_signals(signal.default_int_handler):
            with write_protection_explained(*folders), disk_full_explained(*folders), _notices():
                options.run(options)
            sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        continues = options is not None and options.run is commands.search_command
        say(f"{PROGRAM}: interrupted{'; run the same command to continue' if continues else ''}")
        if arguments is None:  # the process is about to end; another signal would print a traceback
            end_at_once()
        return INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        extra = _extra_of(error.name)
        if extra is None or _wants_traceback(options):
            raise
        say(f"{PROGRAM}: this command needs {error.name}, which is not installed; pip install 'understudy[{extra}]'")
        return BAD_INPUT
    except Exception as error:
        if _wants_traceback(options):
            raise
        if isinstance(error, UserError) or (isinstance(error, OSError) and _is_environment_error(error)):
            say(f"{PROGRAM}: {_message(error)}")
            return BAD_INPUT
        say(f"{PROGRAM}: internal error, please report it: {_summary(error)}; {_save_traceback(options)}")
        return INTERNAL_ERROR


def _output_folders(options: argparse.Namespace) -> list[Path]:
    """Folders that the command writes to."""
    folders = [store_of(options).root] if "store" in options else []
    out: Path | None = getattr(options, "out", None) or getattr(options, "file", None)  # embed writes beside its file
    return folders if out is None else [*folders, out.absolute().parent]


def _is_environment_error(error: OSError) -> bool:
    """Whether a named file, the disk, the network or a check of ours raised the error; any other OSError is a bug."""
    of_network = isinstance(error, ConnectionError | TimeoutError)
    return error.errno is None or error.filename is not None or of_network or is_disk_full(error)


def _summary(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _save_traceback(options: argparse.Namespace | None) -> str:
    """Writes the current traceback to the store, else to a temporary file, or prints it; returns where it is."""
    text = f"{shlex.join(sys.argv)}\n{traceback.format_exc()}"
    root = store_of(options).root if options is not None and "store" in options else None
    if root is not None and root.is_dir():
        file = root / "errors" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        with suppress(OSError):
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
            return f"the traceback is in {file}"
        with suppress(OSError):
            file = Path(mkdtemp(prefix=f"{PROGRAM}-")) / "traceback.txt"
            file.write_text(text, encoding="utf-8")
            return f"the traceback is in {file}"
    say(text)
    return "the traceback is above"


def _message(error: UserError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


@contextmanager
def _notices() -> Iterator[None]:
    """Within the block a FutureWarning, such as that of a renamed key in a study file, is one line on stderr."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_notice(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, FutureWarning):
                say(f"{PROGRAM}: {message}")
            else:
                show(message, category, *place, **more)

        warnings.showwarning = show_notice
        yield


def _wants_traceback(options: argparse.Namespace | None) -> bool:
    return bool(getattr(options, "traceback", False))


def _extra_of(module: str | None) -> str | None:
    root = (module or "").partition(".")[0]
    return next((extra for extra, modules in _EXTRAS.items() if root in modules), None)
