# SPDX-License-Identifier: Apache-2.0
"""The command functions: each takes the parsed options, calls one function of another room and prints its result.

What a command is asked for (a table, a document, a path) goes to stdout, messages go to stderr. Every function imports
what it needs itself, so that a command does not load the dependencies of the others.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.service.limits import serving_options
from search.tracking.client import require_tracking

if TYPE_CHECKING:
    from search.records.front import Front, MeasuredStudent
    from search.storage.store import Store
    from spaces.study import StudySpec


def say(text: str) -> None:
    """Print a message to stderr."""
    print(text, file=sys.stderr, flush=True)


def search_command(options: argparse.Namespace) -> None:
    from spaces.study import load_study, with_overrides

    study = with_overrides(
        load_study(options.study),
        trials=options.trials,
        time_budget=options.time_budget,
        seed=options.seed,
        name=options.name,
    )
    store = store_of(options)
    store.require_writable()
    _say_time_left(study, store)
    require_tracking(store)
    from search.study.preflight import check_cluster, check_study  # imports torch

    check_cluster(options.address)
    check_study(study, say=say)
    from search.console.front_table import print_front
    from search.study.run import run_search

    print_front(run_search(study, store=store, address=options.address))


def _say_time_left(study: StudySpec, store: Store) -> None:
    """Prints what is left of the time budget, unless the study is complete with its present limits."""
    from search.storage.study_state import StudyState
    from search.study.limits import COMPLETE, RequestedLimits
    from search.study.time_left import time_left_line

    state = StudyState.of(store, study.name)
    if state.read(COMPLETE) != RequestedLimits.of(study) and (line := time_left_line(study, state)):
        say(line)


def watch_command(options: argparse.Namespace) -> None:
    from search.cli.watch import watch

    watch(store_of(options), options.name, say=say)


def front_command(options: argparse.Namespace) -> None:
    from search.console.front_table import print_front
    from search.tracking.registry import load_front

    store = store_of(options)
    front = load_front(store, options.name)
    if options.json:
        _print_json(front.to_json())
    else:
        print_front(front)
    if options.search:
        from search.cli.search_summary import search_lines
        from search.console.progress import ConsoleReporter
        from search.console.text import print_text
        from search.report.page import review_of

        with ConsoleReporter(announce=False) as reporter:
            review = review_of(store, front, step=reporter.step)
        if review is None:
            say(f"{front.study} has no journal in this store, so its search cannot be summarised")
        else:  # stdout of --json is one document
            print_text(search_lines(review), file=sys.stderr if options.json else sys.stdout)


def select_command(options: argparse.Namespace) -> None:
    from search.tracking.registry import load_front, set_alias
    from search.tracking.select import select

    store = store_of(options)
    front = load_front(store, options.name)
    entry = select(
        store,
        front,
        max_latency_ms=options.max_latency_ms,
        min_fidelity=options.min_fidelity,
        balanced=options.balanced,
        student=options.student,
    )
    if options.alias is not None:
        assert entry.version is not None  # a registered student has a version
        set_alias(store, front.study, entry.version, options.alias)
        entry = entry.changed(aliases=tuple(sorted({*entry.aliases, options.alias})))
    say(_describe(entry, front))
    if options.json:
        _print_json(entry.to_json(with_uri=True))
    else:
        print(entry.uri)


def export_command(options: argparse.Namespace) -> None:
    from search.export.formats import export_model

    print(export_model(store_of(options), options.model, options.out, format=options.format))


def embed_command(options: argparse.Namespace) -> None:
    from search.export.embed import embed_file

    _print_path(embed_file(store_of(options), options.model, options.file, out=options.out, n_threads=options.threads))


def serve_command(options: argparse.Namespace) -> None:
    serving = serving_options(options)
    from runtime.service.server import serve
    from search.export.embed import find_folder

    folder = find_folder(store_of(options), options.model)
    if serving.name is None and folder != Path(options.model):
        serving = replace(serving, name=options.model)
    serve(folder, serving, say=say, announce=lambda address: print(address, flush=True))


def report_command(options: argparse.Namespace) -> None:
    from search.console.progress import ConsoleReporter
    from search.report.page import write_report

    with ConsoleReporter(announce=False) as reporter:
        out = write_report(store_of(options), options.name, options.out, reporter=reporter)
    _print_path(out)


def ui_command(options: argparse.Namespace) -> None:
    from search.cli.browser import can_open
    from search.cli.ui import serve_ui

    browse = not options.no_browser and can_open()
    status = serve_ui(store_of(options), port=options.port, host=options.host, say=say, browse=browse)
    if status:
        raise OSError(f"the MLflow server exited with status {status}; its messages are above")


def validate_command(options: argparse.Namespace) -> None:
    from search.console.text import print_text
    from search.study.preflight import validate_study
    from spaces.study import describe

    print_text(describe(validate_study(options.study, say=say)))


def doctor_command(options: argparse.Namespace) -> None:
    from runtime.doctor import diagnose
    from search.console.text import print_text

    diagnosis = diagnose()
    if options.json:
        _print_json(diagnosis.to_json())
    else:
        print_text(str(diagnosis))


def store_of(options: argparse.Namespace) -> Store:
    """The store that `--store` and `--tracking-uri` name, or the default one."""
    from search.storage.store import Store

    tracking = options.tracking_uri
    return Store.default(tracking=tracking) if options.store is None else Store(options.store, tracking)


def _describe(entry: MeasuredStudent, front: Front) -> str:
    from search.records.formatting import format_ms, format_speedup
    from spaces.student import StudentSpec
    from spaces.student_words import describe

    low_ms, high_ms = entry.latency_interval_ms
    fidelity = front.objective.format(front.fidelity_of(entry))
    return (
        f"{entry.name} (version {entry.version}): {describe(StudentSpec.from_json(dict(entry.spec)))}; "
        f"{front.objective.label} {fidelity}, {format_ms(entry.latency_ms)} ms "
        f"({format_ms(low_ms)} to {format_ms(high_ms)}), {format_speedup(entry.speedup)} the teacher's speed"
    )


def _print_path(path: Path) -> None:
    """Prints what a command has written, unless that is standard output itself."""
    from search.storage.streams import is_stdout

    if not is_stdout(path):
        print(path)


def _print_json(document: object) -> None:
    print(json.dumps(document, ensure_ascii=False, allow_nan=False))
