# SPDX-License-Identifier: Apache-2.0
"""The command line: reads arguments, calls one function for each command, prints. It decides nothing else.

    search    search.study.run.run_search
    watch     search.cli.watch.watch
    front     search.tracking.registry.load_front
    select    search.records.selection.select_student, search.tracking.registry.set_alias
    export    search.export.formats.export_model
    embed     search.export.embed.embed_file
    serve     runtime.service.server.serve
    report    search.report.page.write_report
    ui        search.cli.ui.serve_ui
    validate  search.study.preflight.validate_study
    doctor    runtime.doctor.diagnose

What is for people goes to stderr, what is for programs to stdout. Exit status: 0; 2 for bad input or a full disk, with
one message; 1 for an error of ours, whose traceback is kept; 130 after Ctrl-C, when what was running has ended in
order. Everything heavy is imported by the command that needs it, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from runtime.service.limits import add_serving_options, serving_options
from search.cli.options import address, count, duration, finite, named, port, positive, seed, store_folder, tracking
from search.storage.disk_space import disk_full_explained, is_disk_full
from search.tracking.client import require_tracking
from spaces.errors import UserError

if TYPE_CHECKING:
    from search.records.front import Front, MeasuredStudent
    from search.storage.store import Store

PROGRAM = "understudy"
BAD_INPUT = 2
INTERNAL_ERROR = 1
INTERRUPTED = 130
_SEARCH_MODULES = ("datasets", "jaxtyping", "mlflow", "optuna", "pandas", "pyarrow", "ray", "rich", "scipy", "torch")
_EXTRAS = {
    "search": {*_SEARCH_MODULES, "huggingface_hub", "requests", "transformers"},
    "serve": {"prometheus_client", "starlette", "threadpoolctl", "uvicorn"},
    "export": {"onnx", "onnxruntime", "onnxscript", "sentence_transformers"},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; None means the arguments of this process."""
    options: argparse.Namespace | None = None
    try:
        options = build_parser().parse_args(_join_negative(sys.argv[1:] if arguments is None else arguments))
        with disk_full_explained(*_written(options)):
            options.run(options)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        goes_on = options is not None and options.run is _search
        say(f"{PROGRAM}: interrupted{'; the same command goes on from there' if goes_on else ''}")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has left: nothing to say, and nowhere to say it
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
        if isinstance(error, UserError) or (isinstance(error, OSError) and _is_of_the_world(error)):
            say(f"{PROGRAM}: {_message(error)}")
            return BAD_INPUT
        say(f"{PROGRAM}: internal error, please report it: {_summary(error)}; {_keep_traceback(options)}")
        return INTERNAL_ERROR


def say(text: str) -> None:
    """A message for people."""
    print(text, file=sys.stderr, flush=True)


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command; `run` of what it returns is the command's function."""
    parser = _Parser(prog=PROGRAM, description="Finds the smallest, fastest students of a large text encoder.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    search = _command(commands, "search", _search, "run a study, or go on with it, and register its front")
    search.add_argument("study", metavar="STUDY", help="a study file, or the name of one that ships: quickstart")
    search.add_argument("--trials", type=count, metavar="N", help="most trials, instead of the study's")
    search.add_argument("--time-budget", type=duration, metavar="TIME", help="of the whole run: 90s, 10m or 2h")
    search.add_argument("--address", type=address, metavar="ADDRESS", help="of a Ray cluster: auto or HOST:PORT")
    search.add_argument("--seed", type=seed, metavar="N", help="instead of the study's")
    search.add_argument("--name", type=named("study"), metavar="NAME", help="search under another name")

    watch = _command(commands, "watch", _watch, "look on while another process searches a study")
    _add_name(watch)

    front = _command(commands, "front", _front, "show a study's front, references beside it")
    _add_name(front)
    front.add_argument("--json", action="store_true", help="print the front as one JSON document")
    front.add_argument("--search", action="store_true", help="show how it was found, too")

    select = _command(commands, "select", _select, "choose one student of a front")
    _add_name(select)
    wish = select.add_mutually_exclusive_group(required=True)
    wish.add_argument("--max-latency-ms", type=positive, metavar="MS", help="the most faithful within this latency")
    wish.add_argument("--min-fidelity", type=finite, metavar="VALUE", help="the fastest of this fidelity")
    wish.add_argument("--balanced", action="store_true", help="the one that the search calls balanced")
    select.add_argument("--alias", type=named("alias"), metavar="ALIAS", help="point this alias at it: production")
    select.add_argument("--json", action="store_true", help="print the student as one JSON document")

    export = _command(commands, "export", _export, "write a registered student for use elsewhere")
    export.add_argument("model", metavar="MODEL", help="NAME, NAME@ALIAS, NAME/VERSION or a student folder")
    export.add_argument("out", metavar="OUT", type=Path, help="where to write; must not exist")
    formats = ("folder", "sentence-transformers", "onnx")
    export.add_argument("--format", required=True, choices=formats, help="what to write")

    embed = _command(commands, "embed", _embed, "embed a file of sentences")
    embed.add_argument("model", metavar="MODEL_OR_FOLDER", help="NAME, NAME@ALIAS, NAME/VERSION or a student folder")
    embed.add_argument("file", metavar="FILE", type=Path, help="UTF-8 text, a sentence a line")
    embed.add_argument("--out", type=Path, metavar="OUT.npy", help="default: FILE with the suffix .npy")
    embed.add_argument("--threads", type=count, default=1, metavar="N", help="default: 1")

    serve = _command(commands, "serve", _serve, "serve a student over HTTP, as OpenAI's embeddings API")
    serve.add_argument("model", metavar="MODEL_OR_FOLDER", help="NAME, NAME@ALIAS, NAME/VERSION or a student folder")
    add_serving_options(serve)

    report = _command(commands, "report", _report, "write a front as one self-contained page")
    _add_name(report)
    report.add_argument("out", metavar="OUT.html", type=Path, help="the page")

    ui = _command(commands, "ui", _ui, "serve the MLflow UI over the store, on loopback")
    ui.add_argument("--port", type=port, default=5000, metavar="N", help="default: 5000")
    ui.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1; there are no accounts")

    validate = _command(commands, "validate", _validate, "explain every mistake in a study; run nothing", store=False)
    validate.add_argument("study", metavar="STUDY", help="a study file, or the name of one that ships")

    doctor = _command(commands, "doctor", _doctor, "say what this machine runs students on, and why", store=False)
    doctor.add_argument("--json", action="store_true", help="print it as one JSON document")
    return parser


def _search(options: argparse.Namespace) -> None:
    from search.study.preflight import check_cluster, check_study
    from spaces.study import load_study, with_overrides

    study = with_overrides(
        load_study(options.study),
        trials=options.trials,
        time_budget=options.time_budget,
        seed=options.seed,
        name=options.name,
    )
    store = _store(options)
    store.require_writable()
    require_tracking(store)
    check_cluster(options.address)
    check_study(study)
    from search.console.front_table import print_front
    from search.study.run import run_search

    print_front(run_search(study, store=store, address=options.address), file=sys.stderr)


def _watch(options: argparse.Namespace) -> None:
    from search.cli.watch import watch

    watch(_store(options), options.name, say=say)


def _front(options: argparse.Namespace) -> None:
    from search.console.front_table import print_front
    from search.tracking.registry import load_front

    store = _store(options)
    document = load_front(store, options.name)
    if options.json:
        _print_json(document.to_json())
    else:
        print_front(document, file=sys.stderr)
    if options.search:
        from search.cli.search_summary import search_lines
        from search.report.page import review_of

        review = review_of(store, document)
        say(f"there is no journal of the search of {document.study}" if review is None else search_lines(review))


def _select(options: argparse.Namespace) -> None:
    from search.records.selection import select_student
    from search.tracking.registry import load_front, set_alias

    store = _store(options)
    front = load_front(store, options.name)
    entry = select_student(
        front,
        max_latency_ms=options.max_latency_ms,
        min_fidelity=options.min_fidelity,
        balanced=options.balanced,
    )
    if options.alias is not None:
        assert entry.version is not None  # `select` answers from the registry
        set_alias(store, front.study, entry.version, options.alias)
        entry = entry.changed(aliases=tuple(sorted({*entry.aliases, options.alias})))
    say(_describe(entry, front))
    if options.json:
        _print_json(entry.to_json(with_uri=True))
    else:
        print(entry.uri)


def _export(options: argparse.Namespace) -> None:
    from search.export.formats import export_model

    print(export_model(_store(options), options.model, options.out, format=options.format))


def _embed(options: argparse.Namespace) -> None:
    from search.export.embed import embed_file

    print(embed_file(_store(options), options.model, options.file, out=options.out, n_threads=options.threads))


def _serve(options: argparse.Namespace) -> None:
    serving = serving_options(options)
    from runtime.service.server import serve
    from search.export.embed import find_folder

    folder = find_folder(_store(options), options.model)
    if serving.name is None and folder != Path(options.model):
        serving = replace(serving, name=options.model)
    serve(folder, serving, say=say, announce=lambda address: print(address, flush=True))


def _report(options: argparse.Namespace) -> None:
    from search.report.page import write_report

    print(write_report(_store(options), options.name, options.out))


def _ui(options: argparse.Namespace) -> None:
    from search.cli.ui import serve_ui

    status = serve_ui(_store(options), port=options.port, host=options.host, say=say)
    if status:
        raise OSError(f"the MLflow server ended with status {status}; its own messages are above")


def _validate(options: argparse.Namespace) -> None:
    from search.study.preflight import validate_study
    from spaces.study import describe

    say(describe(validate_study(options.study)))


def _doctor(options: argparse.Namespace) -> None:
    from runtime.doctor import diagnose

    diagnosis = diagnose()
    say(str(diagnosis))
    if options.json:
        _print_json(diagnosis.to_json())


class _Parser(argparse.ArgumentParser):
    """Answers a mistake with one line, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{PROGRAM}: {message}; see `{self.prog} --help`\n")


def _join_negative(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--option -5m` as `--option=-5m`, else argparse takes the value for an option."""
    joined: list[str] = []
    for argument in arguments:
        if re.match(r"-\d", argument) and joined and re.fullmatch(r"--[a-z-]+", joined[-1]):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], words: str, *, store: bool = True
) -> argparse.ArgumentParser:
    description = f"{words[0].upper()}{words[1:]}."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=words, description=description)
    if store:
        default = "default: $UNDERSTUDY_STORE or understudy-store"
        parser.add_argument("--store", type=store_folder, metavar="FOLDER", help=default)
        where = "MLflow's: http://HOST:PORT or sqlite:///FILE; default: what the store remembers, else its own database"
        parser.add_argument("--tracking-uri", type=tracking, metavar="ADDRESS", help=where)
    parser.add_argument("--traceback", action="store_true", help="show where in the code a mistake was noticed")
    parser.set_defaults(run=run)
    return parser


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", type=named("study"), metavar="NAME", help="the study; default: the latest")


def _store(options: argparse.Namespace) -> Store:
    from search.storage.store import Store

    tracking = options.tracking_uri
    return Store.default(tracking=tracking) if options.store is None else Store(options.store, tracking)


def _written(options: argparse.Namespace) -> list[Path]:
    """Folders in which the command writes."""
    folders = [_store(options).root] if "store" in options else []
    out: Path | None = getattr(options, "out", None)
    return folders if out is None else [*folders, out.absolute().parent]


def _describe(entry: MeasuredStudent, front: Front) -> str:
    from spaces.student import StudentSpec
    from spaces.student_words import describe

    low_ms, high_ms = entry.latency_interval_ms
    fidelity = front.objective.format(front.fidelity_of(entry))
    return (
        f"{entry.name} (version {entry.version}): {describe(StudentSpec.from_json(dict(entry.spec)))}; "
        f"{front.objective.label} {fidelity}, {entry.latency_ms:.3g} ms ({low_ms:.3g} to {high_ms:.3g}), "
        f"{entry.speedup:.3g} times as fast as the teacher"
    )


def _print_json(document: object) -> None:
    print(json.dumps(document, ensure_ascii=False, allow_nan=False))


def _is_of_the_world(error: OSError) -> bool:
    """Whether an error is of a file with a name, of a disk, of the network, or in our own words; else it is a bug."""
    of_network = isinstance(error, ConnectionError | TimeoutError)
    return error.errno is None or error.filename is not None or of_network or is_disk_full(error)


def _summary(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _keep_traceback(options: argparse.Namespace | None) -> str:
    """Writes the traceback of the error in progress into the store, or shows it; returns where it is, in words."""
    text = traceback.format_exc()
    root = _store(options).root if options is not None and "store" in options else None
    if root is not None and root.is_dir():
        file = root / "errors" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        with suppress(OSError):
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"{shlex.join(sys.argv)}\n{text}", encoding="utf-8")
            return f"the traceback is in {file}"
    say(text)
    return "the traceback is above"


def _message(error: UserError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _wants_traceback(options: argparse.Namespace | None) -> bool:
    return bool(getattr(options, "traceback", False))


def _extra_of(module: str | None) -> str | None:
    root = (module or "").partition(".")[0]
    return next((extra for extra, modules in _EXTRAS.items() if root in modules), None)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(PROGRAM)
    except PackageNotFoundError:  # run from its sources
        return "not installed"
