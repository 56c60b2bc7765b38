# SPDX-License-Identifier: Apache-2.0
"""Loads and validates a study by path or preset name, and summarises it as text."""

from __future__ import annotations

from pathlib import Path

from spaces.combinations import count_structures
from spaces.dimensions import DIMENSIONS
from spaces.fields import format_duration
from spaces.space import show_domain
from spaces.study.file import parse_study
from spaces.study.spec import StudySpec
from spaces.study.yaml import MAX_CHARACTERS, Problem, StudyError

_PRESETS = Path(__file__).resolve().parents[1] / "presets"


def preset_names() -> tuple[str, ...]:
    """The names of the studies that ship with the project."""
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.yaml")))


def load_study(path_or_name: str | Path) -> StudySpec:
    """The study of a file, or of a preset by its bare name.

    A file goes before a preset of the same name. Raises StudyError (a ValueError) with every problem of the file, or
    FileNotFoundError when there is neither file nor preset.
    """
    path = Path(path_or_name).expanduser()
    if not path.exists() and str(path_or_name) in preset_names():
        path = _PRESETS / f"{path_or_name}.yaml"
    if not path.exists():
        known = ", ".join(preset_names())
        raise FileNotFoundError(f"a study is a file or a preset ({known}), got {str(path_or_name)!r}; check the path")
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a device or pipe"
        raise _unreadable(path, "a study must be a file", what, "name a YAML file")
    size = path.stat().st_size
    if size > 4 * MAX_CHARACTERS:
        rule = f"a study file holds at most {MAX_CHARACTERS} characters"
        raise _unreadable(path, rule, f"{size} bytes", "is this the corpus?")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        rule = "a study file must be UTF-8"
        raise _unreadable(
            path, rule, f"byte 0x{error.object[error.start]:02x} at {error.start}", "save it as UTF-8"
        ) from None
    return parse_study(text, origin=str(path_or_name), folder=path.resolve().parent)


def _unreadable(path: Path, rule: str, value: str, remedy: str) -> StudyError:
    return StudyError(str(path), [Problem(line=None, rule=rule, value=value, remedy=remedy)])


def describe(study: StudySpec) -> str:
    """A summary of a valid study, as several lines of text."""
    space, search, graduation, profile = study.space, study.search, study.graduation, study.profile
    n_structures = count_structures(space)
    if n_structures is None:
        structures = "countless structures"
    else:
        structures = f"{n_structures:,} distinct structure{'s' if n_structures != 1 else ''}"
    lines = [f"study {study.name}: {structures}, {len(space.domains)} searched dimensions"]
    for teacher in study.teachers:
        checked = ", checked by its digest" if teacher.sha256 else ""
        lines.append(f"  teacher     {teacher.source} (weight {teacher.weight:g}{checked})")
    for source in study.corpus.sources:
        column = f", column {source.column}" if source.column else ""
        lines.append(f"  text        {source.source}{column}")
    corpus = study.corpus
    kept = "all sentences" if corpus.limit is None else f"at most {corpus.limit:,} sentences"
    lines.append(
        f"  sentences   {kept} of {corpus.min_characters} to {corpus.max_characters} characters and {corpus.min_words} "
        f"words or more; {corpus.held_out:,} held out; cut to {corpus.max_tokens} tokens"
    )
    lines.append(
        f"  latency     {profile.runtime}, batch {profile.batch_size}, {profile.n_tokens} tokens, "
        f"{profile.n_threads} thread{'s' if profile.n_threads != 1 else ''}"
    )
    lines.append(f"  fidelity    {study.objective.fidelity}")
    time = "no time limit" if search.time_budget_s is None else format_duration(search.time_budget_s)
    trials = "trials until the time is up" if search.n_trials is None else f"at most {search.n_trials} trials"
    rungs = ", ".join(f"{rung:,}" for rung in search.rungs)
    lines.append(f"  budget      {time} in all; {trials}; rungs at {rungs} tokens; seed {search.seed}")
    limits = []
    if search.trial_memory_gib is not None:
        limits.append(f"{search.trial_memory_gib:g} GiB a trial")
    if search.rung_time_limit_s is not None:
        limits.append(f"{format_duration(search.rung_time_limit_s)} from rung to rung")
    if limits:
        lines.append(f"  limits      {', '.join(limits)}")
    longest = "bounded by time" if graduation.n_tokens is None else f"up to {graduation.n_tokens:,} tokens each"
    lines.append(
        f"  graduation  {graduation.share:.0%} of the time, at most {graduation.max_students} students, {longest}; "
        f"{graduation.n_workers} workers, {graduation.workers_per_student} a student"
    )
    width = max(map(len, (*space.domains, *space.fixed)), default=0)
    for name in space.names:
        when = "".join(f"; when {parent} is {show_domain(d)}" for parent, d in space.conditions.get(name, {}).items())
        lines.append(f"  {name:<{width}}  {show_domain(space.domains[name])}{when}  ({DIMENSIONS[name].meaning})")
    for name, value in space.fixed.items():
        lines.append(f"  {name:<{width}}  always {value}  ({DIMENSIONS[name].meaning})")
    lines.append(f"  {len(study.initial_points)} initial points")
    return "\n".join(lines)
