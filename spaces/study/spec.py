# SPDX-License-Identifier: Apache-2.0
"""The specs of a study: teachers, corpus, space, latency profile, search and graduation.

The fields are those of the study file (`*_s` fields are durations there, without the suffix), so
`StudySpec.to_json` is a study file too: YAML contains JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

from spaces.domain import Choice, Domain, Integer, Value
from spaces.fields import (
    Natural,
    Positive,
    Range,
    Seconds,
    Share,
    field_breaches,
    format_duration,
    parse_duration,
    refuse,
    require_name,
)
from spaces.objective import ObjectiveSpec
from spaces.profile import LatencyProfile
from spaces.space import Space

INSTALLED_DOCS = "installed-docs"
TEXT_SUFFIXES = (".txt", ".txt.gz")
TABLE_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet")


_REMOTE_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_MOST_GIB = 1_000_000  # more is taken for a typing error
_REMOTE_REMEDY = "write for example package:NAME or hub:ORGANISATION/NAME"


class SourceKind(StrEnum):
    """Where a teacher or a text comes from."""

    PACKAGE = "package"
    HUB = "hub"
    FOLDER = "folder"
    INSTALLED_DOCS = "installed-docs"
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """One teacher: `package:DISTRIBUTION`, `hub:ORGANISATION/NAME` or a local folder."""

    source: str
    """Where its files are; a study file's relative folder is resolved against the file's own folder."""
    weight: Annotated[float, Range(above=0)] = 1.0
    """Share of its embeddings in the target, relative to the other teachers'."""
    sha256: str | None = None
    """Hexadecimal digest that its model.safetensors must have (several weight files: that of what `sha256sum` prints
    for model.safetensors.index.json and model-*.safetensors); None: not checked."""

    def __post_init__(self) -> None:
        refuse(self._breaches())

    def _breaches(self) -> Iterator[str]:
        yield from field_breaches(self)
        if not self.source:
            yield "source of a teacher must not be empty; give a folder, package:NAME or hub:ORG/NAME"
        elif self.kind is not SourceKind.FOLDER and not is_remote_name(self.reference):
            yield f"source of a teacher needs a name after the colon, got {self.source!r}; {_REMOTE_REMEDY}"
        if self.sha256 is not None and (len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef")):
            yield f"sha256 must be 64 lower-case hexadecimal digits, got {self.sha256!r}; see `sha256sum`"

    @property
    def kind(self) -> SourceKind:
        """PACKAGE, HUB or FOLDER."""
        prefix = self.source.partition(":")[0]
        return SourceKind(prefix) if prefix in ("package", "hub") and ":" in self.source else SourceKind.FOLDER

    @property
    def reference(self) -> str:
        """The source without its prefix: a distribution, a hub id or a path."""
        return self.source if self.kind is SourceKind.FOLDER else self.source.partition(":")[2].strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """One source of text: `installed-docs`, `hub:NAME`, or a .txt, .csv, .tsv or .jsonl (also .gz) or .parquet file."""

    source: str
    """Where the text is; a study file's relative path is resolved against the file's own folder."""
    column: str | None = None
    """Column (or JSON key) that holds the text; tables and hub data sets need it, plain text has none."""
    split: str | None = None
    """Split of a hub data set; None: train."""
    configuration: str | None = None
    """Named configuration of a hub data set; None: its default."""

    def __post_init__(self) -> None:
        refuse(self._breaches())

    def _breaches(self) -> Iterator[str]:
        kind = self.kind
        if not self.source:
            yield "source of text must not be empty; give installed-docs, hub:NAME or a file"
            return
        if kind is SourceKind.HUB and not is_remote_name(self.reference):
            yield f"source of text needs a name after the colon, got {self.source!r}; {_REMOTE_REMEDY}"
        if kind is SourceKind.FILE and not self.source.lower().endswith(TEXT_SUFFIXES + TABLE_SUFFIXES):
            yield (
                f"source of text must end in {', '.join(TEXT_SUFFIXES + TABLE_SUFFIXES)}, got {self.source!r}; "
                "convert the file, one sentence a line"
            )
        if self.is_table and self.column is None:
            yield f"a table needs a column, got none for {self.source!r}; name the column of its text"
        if not self.is_table and self.column is not None:
            yield f"plain text has no columns, got column {self.column!r} for {self.source!r}; leave it out"
        if kind is not SourceKind.HUB and (self.split is not None or self.configuration is not None):
            yield f"only hub data sets have a split or a configuration, got one for {self.source!r}; leave it out"

    @property
    def kind(self) -> SourceKind:
        """INSTALLED_DOCS, HUB or FILE."""
        if self.source == INSTALLED_DOCS:
            return SourceKind.INSTALLED_DOCS
        return SourceKind.HUB if self.source.startswith("hub:") else SourceKind.FILE

    @property
    def reference(self) -> str:
        """The source without its prefix: a hub name or a path."""
        return self.source.removeprefix("hub:").strip() if self.kind is SourceKind.HUB else self.source

    @property
    def is_table(self) -> bool:
        """Whether the text is one column of many."""
        return self.kind is SourceKind.HUB or self.source.lower().endswith(TABLE_SUFFIXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSpec:
    """The text for distillation and evaluation, and how it is filtered and tokenised."""

    sources: tuple[SourceSpec, ...]
    """At least one source; equal sentences are kept once."""
    min_characters: Positive = 20
    """Shorter sentences are dropped."""
    max_characters: Positive = 240
    """Longer sentences are dropped."""
    min_words: Positive = 5
    """Sentences of fewer words are dropped; words without spaces between them (Chinese, Thai) are estimated."""
    held_out: Annotated[int, Range(low=32)] = 2_000
    """Sentences, chosen by hash, that no student trains on and that fidelity is measured on."""
    max_tokens: Annotated[int, Range(low=4, high=8_192)] = 64
    """Longer sentences are cut to this many tokens, special tokens included."""
    limit: Positive | None = None
    """Most sentences that are kept, held-out ones included; None: all."""

    def __post_init__(self) -> None:
        refuse(self._breaches())

    def _breaches(self) -> Iterator[str]:
        yield from field_breaches(self)
        if not self.sources:
            yield "sources of a corpus must not be empty; add one, for example installed-docs"
        if self.min_characters > self.max_characters:
            yield (
                f"min_characters must not exceed max_characters, got {self.min_characters} and {self.max_characters}; "
                "lower the first or raise the second"
            )
        if self.limit is not None and self.limit <= self.held_out:
            yield (
                f"limit must exceed held_out, or nothing is left to train on: got limit {self.limit} and held_out "
                f"{self.held_out}; raise limit or lower held_out"
            )


SAMPLERS = ("front", "tpe", "gp", "random")
PRUNERS = ("front", "none")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Device(StrEnum):
    """The device of training and of the teachers."""

    CPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpec:
    """Number of trials, time budget, rungs, sampler and pruner."""

    rungs: tuple[int, ...]
    """Training tokens, increasing, at which a trial is evaluated and may be pruned; the last ends it."""
    n_trials: Positive | None = None
    """Most trials; None: as many as the time allows."""
    time_budget_s: Seconds | None = None
    """Length of the whole run, preparation and graduation included; None: no limit."""
    n_workers: Positive | None = None
    """Concurrent trials, one CPU each; None: one per CPU."""
    n_startup_trials: Natural = 5
    """Trials (initial points, then random ones) before the sampler uses earlier trials."""
    sampler: str = "front"
    """Sampler: `front`, or Optuna's `tpe`, `gp` or `random`, or MODULE:CLASS of any sampler of Optuna."""
    pruner: str = "front"
    """Pruner: `front`, `none`, or MODULE:CLASS of any pruner of Optuna, which is given the error at each rung."""
    prune_ratio: Annotated[float, Range(above=0, high=1000)] = 4.0
    """`pruner: front` stops a trial if a new one has this many times its expected gain per token, and a trial that is
    no slower is predicted to beat it."""
    rung_time_limit_s: Seconds | None = None
    """Time after which a trial without a new rung, or a graduating student without a heartbeat, counts as hung.

    None: ten times what is expected.
    """
    trial_memory_gib: Annotated[float, Range(above=0, high=_MOST_GIB)] | None = None
    """GiB that a trial, or a graduating student, may allocate beyond its worker's initial memory; None: no limit."""
    seed: Annotated[int, Range(low=0, high=2**32 - 1)] = 0
    """Seed of the sampler, the students and the batches."""
    device: Device = Device.CPU
    """Device of the teachers and of training; latency is always measured on the CPU."""

    renamed: ClassVar[Mapping[str, str]] = {"patience": "prune_ratio"}
    """Deprecated keys, which are still read, and their current names."""

    def __post_init__(self) -> None:
        refuse(self._breaches())

    def _breaches(self) -> Iterator[str]:
        yield from field_breaches(self)
        for rung in self.rungs:
            if isinstance(rung, bool) or not isinstance(rung, int) or rung < 1:
                yield f"rungs must be positive integers (training tokens), got {rung!r}; remove it"
        if not self.rungs or any(later <= earlier for earlier, later in zip(self.rungs, self.rungs[1:], strict=False)):
            yield f"rungs must increase, and there must be one, got {list(self.rungs)}; sort them, each once"
        for name, own in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
            value = getattr(self, name)
            if isinstance(value, str) and value not in own and _CLASS.fullmatch(value) is None:
                yield f"{name} must be {', '.join(own)} or MODULE:CLASS, got {value!r}; write for example {own[0]}"
        if not isinstance(self.device, Device):
            known = " or ".join(Device)
            yield f"device must be {known}, got {self.device!r}; others are not supported yet: write {known}"
        if self.n_trials is None and self.time_budget_s is None:
            yield "a search must end, got neither n_trials nor time_budget; set one, for example time_budget: 10m"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraduationSpec:
    """How the front's students are distilled for longer before they are registered."""

    n_tokens: Positive | None = None
    """Most training tokens of a student, its trial's included; None: bounded by time alone."""
    max_students: Positive = 8
    """Most students that are distilled for longer."""
    share: Share = 0.45
    """Share of the run's time budget that is kept for graduation."""
    n_workers: Positive = 1
    """Workers (one CPU each) of the one training job."""
    workers_per_student: Positive = 1
    """Workers that train one student together; divides n_workers."""

    def __post_init__(self) -> None:
        refuse(self._breaches())

    def _breaches(self) -> Iterator[str]:
        yield from field_breaches(self)
        if self.share > 0.95:
            yield f"share must leave time for the search: at most 0.95, got {self.share}; lower it"
        if self.n_workers % self.workers_per_student:
            yield (
                f"workers_per_student must divide n_workers, got {self.workers_per_student} and {self.n_workers}; "
                f"set n_workers to {(self.n_workers // self.workers_per_student + 1) * self.workers_per_student}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """A complete study."""

    name: str
    """Name of its MLflow experiment, its registered model and its folder in the store."""
    teachers: tuple[TeacherSpec, ...]
    """At least one; the first determines the students' tokenizer and default architecture."""
    corpus: CorpusSpec
    """The text."""
    space: Space
    """The search space."""
    search: SearchSpec
    """Trials, time budget, rungs, sampler and pruner."""
    graduation: GraduationSpec = field(default_factory=GraduationSpec)
    """The longer distillation of the best students."""
    profile: LatencyProfile = field(default_factory=LatencyProfile)
    """The conditions under which latency is measured."""
    objective: ObjectiveSpec = field(default_factory=ObjectiveSpec)
    """The fidelity that is maximised besides speed."""
    # After the space, which a study file's initial points are checked against.
    initial_points: tuple[Mapping[str, Value], ...] = ()
    """Points, possibly partial, that are tried first (Optuna's enqueued trials)."""

    def __post_init__(self) -> None:
        require_name("name of a study", self.name)
        refuse(self._breaches())

    def _breaches(self) -> Iterator[str]:
        if not self.teachers:
            yield "teachers must not be empty; name at least one teacher"
        for index, point in enumerate(self.initial_points):
            for name, rule in self.space.breaches(point):
                yield f"initial_points[{index}]: {name} {rule}, got {point[name]!r}"
        if self.graduation.n_tokens is None and self.search.time_budget_s is None:
            yield "graduation must end, got neither graduation.n_tokens nor search.time_budget; set one of them"

    def to_json(self) -> dict[str, Any]:
        """A JSON object that is also a study file: parsing its text gives an equal study."""
        document = {
            "name": self.name,
            "teachers": [section_to_json(teacher) for teacher in self.teachers],
            "corpus": section_to_json(self.corpus)
            | {"sources": [section_to_json(source) for source in self.corpus.sources]},
            "profile": self.profile.to_json(),
            "search": section_to_json(self.search),
            "graduation": section_to_json(self.graduation),
            "space": space_to_json(self.space),
            "initial_points": [dict(point) for point in self.initial_points],
        }
        # A study with the default objective is the same study as one that was written before there was a choice.
        return document if self.objective == ObjectiveSpec() else document | {"objective": self.objective.to_json()}


def space_to_json(space: Space) -> dict[str, Any]:
    """A space as the study file writes it."""
    document: dict[str, Any] = {}
    for name in (*space.domains, *space.fixed):
        entry: dict[str, Any] = {"value": space.fixed[name]} if name in space.fixed else _domain(space.domains[name])
        if name in space.conditions:
            entry["when"] = {parent: _condition(domain) for parent, domain in space.conditions[name].items()}
        document[name] = entry
    return document


def with_overrides(
    study: StudySpec,
    *,
    trials: int | None = None,
    time_budget: str | float | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> StudySpec:
    """The study with a command line's options in place of its values; `time_budget` is seconds or text such as "2h"."""
    search = study.search
    if trials is not None:
        search = replace(search, n_trials=trials)
    if time_budget is not None:
        seconds = parse_duration(time_budget) if isinstance(time_budget, str) else float(time_budget)
        search = replace(search, time_budget_s=seconds)
    if seed is not None:
        search = replace(search, seed=seed)
    return replace(study, search=search, name=study.name if name is None else name)


def file_key(field_name: str) -> str:
    """The study file's key of a field: a field of seconds is a duration there, and its name has no unit."""
    return field_name.removesuffix("_s")


def is_remote_name(reference: str) -> bool:
    """Whether a reference reads like a hub id or the name of a distribution."""
    return _REMOTE_NAME.fullmatch(reference) is not None and ".." not in reference


def section_to_json(spec: Any) -> dict[str, Any]:
    """A section of plain values, such as the search, as the study file writes it."""
    document: dict[str, Any] = {}
    for part in fields(spec):
        value = getattr(spec, part.name)
        key = file_key(part.name)
        if key != part.name and value is not None:
            value = format_duration(value)
        document[key] = list(value) if isinstance(value, tuple) else value
    return document


def _domain(domain: Domain) -> dict[str, Any]:
    if isinstance(domain, Choice):
        return {"options": list(domain.options)}
    entry: dict[str, Any] = {"low": domain.low, "high": domain.high, "log": domain.log}
    return entry | {"step": domain.step} if isinstance(domain, Integer) else entry


def _condition(domain: Domain) -> Any:
    return list(domain.options) if isinstance(domain, Choice) else {"low": domain.low, "high": domain.high}


def resolve(source: str, folder: Path) -> Path:
    """The absolute path of a source that is a path, seen from a folder."""
    return (folder / Path(source).expanduser()).resolve()
