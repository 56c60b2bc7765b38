# SPDX-License-Identifier: Apache-2.0
"""The argparse parser of the command line: every command with its options.

Nothing heavy is imported here, so `--help` and bad arguments are answered at once.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from runtime.service.limits import add_serving_options
from search.cli import commands
from search.cli.options import address, count, duration, finite, named, port, positive, seed, store_folder, tracking

PROGRAM = "understudy"
BAD_INPUT = 2
"""Exit status for bad input."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the parsed options hold the command's function as `run`."""
    parser = _Parser(prog=PROGRAM, description="Finds the smallest, fastest students of a large text encoder.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {_version()}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    search = _add_command(
        subparsers, "search", commands.search_command, "run or continue a study and register its front"
    )
    search.add_argument("study", metavar="STUDY", help="a study file, or the name of a preset: quickstart")
    search.add_argument("--trials", type=count, metavar="N", help="maximum number of trials, instead of the study's")
    search.add_argument("--time-budget", type=duration, metavar="TIME", help="for the whole run: 90s, 10m or 2h")
    search.add_argument("--address", type=address, metavar="ADDRESS", help="a Ray cluster: auto or HOST:PORT")
    search.add_argument("--seed", type=seed, metavar="N", help="random seed, instead of the study's")
    search.add_argument("--name", type=named("study"), metavar="NAME", help="study name, instead of the file's")

    watch = _add_command(
        subparsers, "watch", commands.watch_command, "show the trials of a study that another process searches"
    )
    _add_study_name(watch)

    front = _add_command(subparsers, "front", commands.front_command, "show a study's front and its references")
    _add_study_name(front)
    front.add_argument("--json", action="store_true", help="print the front as one JSON document")
    front.add_argument(
        "--search", action="store_true", help="also summarise the search: trials, hypervolume, rungs, Sobol indices"
    )

    select = _add_command(subparsers, "select", commands.select_command, "choose one student of a front")
    _add_study_name(select)
    limit = select.add_mutually_exclusive_group(required=True)
    limit.add_argument(
        "--max-latency-ms", type=positive, metavar="MS", help="the student of highest fidelity within this latency"
    )
    limit.add_argument(
        "--min-fidelity", type=finite, metavar="VALUE", help="the fastest student of at least this fidelity"
    )
    limit.add_argument(
        "--balanced", action="store_true", help="the one with the alias balanced, at the knee of the front"
    )
    limit.add_argument(
        "--student", metavar="NAME", help="the one of this name, such as trial-0007 or the reference teacher-on-engine"
    )
    select.add_argument("--alias", type=named("alias"), metavar="ALIAS", help="set this alias to it: production")
    select.add_argument("--json", action="store_true", help="print the student as one JSON document")

    export = _add_command(subparsers, "export", commands.export_command, "write a registered student in another format")
    export.add_argument("model", metavar="MODEL", help="NAME, NAME@ALIAS, NAME/VERSION or a student folder")
    export.add_argument("out", metavar="OUT", type=Path, help="the path to write; must not exist")
    formats = ("folder", "sentence-transformers", "onnx")
    export.add_argument("--format", required=True, choices=formats, help="the format")

    embed = _add_command(subparsers, "embed", commands.embed_command, "embed a file of sentences")
    embed.add_argument("model", metavar="MODEL_OR_FOLDER", help="NAME, NAME@ALIAS, NAME/VERSION or a student folder")
    embed.add_argument("file", metavar="FILE", type=Path, help="UTF-8 text or .gz, one sentence a line; - for stdin")
    embed.add_argument("--out", type=Path, metavar="OUT.npy", help="default: FILE.npy; - for stdout")
    embed.add_argument("--threads", type=count, default=1, metavar="N", help="default: 1")

    serve = _add_command(
        subparsers, "serve", commands.serve_command, "serve a student over HTTP, as OpenAI's embeddings API"
    )
    serve.add_argument("model", metavar="MODEL_OR_FOLDER", help="NAME, NAME@ALIAS, NAME/VERSION or a student folder")
    add_serving_options(serve)

    report = _add_command(subparsers, "report", commands.report_command, "write a front as one self-contained page")
    _add_study_name(report)
    report.add_argument("out", metavar="OUT.html", type=Path, help="the HTML file to write; - for stdout")

    ui = _add_command(subparsers, "ui", commands.ui_command, "serve the MLflow UI of the store, on loopback")
    ui.add_argument("--port", type=port, default=5000, metavar="N", help="default: 5000")
    ui.add_argument("--no-browser", action="store_true", help="print the address only; do not open it")
    ui.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1; there are no accounts")

    validate = _add_command(
        subparsers, "validate", commands.validate_command, "explain every mistake in a study; run nothing", store=False
    )
    validate.add_argument("study", metavar="STUDY", help="a study file, or the name of a preset")

    doctor = _add_command(
        subparsers,
        "doctor",
        commands.doctor_command,
        "report the instruction set that the engine uses here, and why",
        store=False,
    )
    doctor.add_argument("--json", action="store_true", help="print it as one JSON document")
    return parser


class _Parser(argparse.ArgumentParser):
    """Reports a bad argument in one line, in the form of all other errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{PROGRAM}: {message}; see `{self.prog} --help`\n")


def join_negative(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--option -5m` written as `--option=-5m`: argparse would take `-5m` for an option."""
    joined: list[str] = []
    for argument in arguments:
        if re.match(r"-\d", argument) and joined and re.fullmatch(r"--[a-z-]+", joined[-1]):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _add_command(
    subparsers: Any, name: str, run: Callable[[argparse.Namespace], None], words: str, *, store: bool = True
) -> argparse.ArgumentParser:
    description = f"{words[0].upper()}{words[1:]}."
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=words, description=description)
    if store:
        default = "default: $UNDERSTUDY_STORE or understudy-store"
        parser.add_argument("--store", type=store_folder, metavar="FOLDER", help=default)
        where = "MLflow's: http://HOST:PORT or sqlite:///FILE; default: what the store remembers, else its own database"
        parser.add_argument("--tracking-uri", type=tracking, metavar="ADDRESS", help=where)
    parser.add_argument("--traceback", action="store_true", help="print the Python traceback of an error")
    parser.set_defaults(run=run)
    return parser


def _add_study_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", type=named("study"), metavar="NAME", help="the study; default: the latest")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(PROGRAM)
    except PackageNotFoundError:  # run from its sources
        return "not installed"
