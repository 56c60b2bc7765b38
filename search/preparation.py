# SPDX-License-Identifier: Apache-2.0
"""Before the first trial: teachers, corpus, calibration, the teacher's cached outputs, the static table, inheritance.

Everything costly is kept: corpora, caches and calibrations in the store's cache, where other studies find them;
the table and the size of the training text in the study's folder. A second command measures nothing again.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from search.architectures import sample_architectures
from search.mapped_array import by_path
from search.preflight import require_one_dimension
from search.progress import Reporter
from search.store import Store
from search.study_state import StudyState
from search.time_plan import TimePlan, n_sentences
from spaces.domain import Choice
from spaces.study_spec import StudySpec
from trainers.cache import CachePlan, TeacherCache, build_cache, combine
from trainers.calibration import Calibration, cached_calibration
from trainers.corpus import Corpus, prepare_corpus
from trainers.embed import embed
from trainers.inherit import Inheritance, prepare_inheritance
from trainers.loop import DistillationData
from trainers.predictor import MIN_CROSS_VALIDATED, LatencyPredictor, PredictorError
from trainers.static_table import train_static_table
from trainers.teacher import Teacher, load_teacher

PROBE_SHARE = 0.2
"""Share of the cache's time in which the teacher's speed is measured; what it embeds meanwhile counts."""
TABLE_AGAIN = 2.0
"""The static table is trained again once the time for it has grown by this factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that trials, graduation and references need; plain values and mapped files."""

    teachers: tuple[Teacher, ...]
    """At least one; the first gives tokenizer, shape and weights to students."""
    corpora: tuple[Corpus, ...]
    """The same sentences for every teacher, in its own tokens."""
    calibration: Calibration
    """Measured latencies of architectures of the space on this machine."""
    predictor: LatencyPredictor
    """Fitted to the calibration."""
    predictor_error: PredictorError | None
    """Of the predictor on architectures that it has not seen (cross-validated); None: too few to tell."""
    data: DistillationData
    """Training text with the teachers' outputs, and held-out text."""
    inheritance: Inheritance
    """What students start from."""

    @property
    def teacher(self) -> Teacher:
        """The first teacher."""
        return self.teachers[0]

    @property
    def corpus(self) -> Corpus:
        """The corpus in the first teacher's tokens."""
        return self.corpora[0]

    @property
    def n_sentences(self) -> int:
        """Training sentences."""
        return len(self.data.offsets) - 1

    @property
    def n_object_bytes(self) -> int:
        """Bytes that Ray's object store must hold: the data and what is inherited, for search and graduation each."""
        data, inheritance = self.data, self.inheritance
        arrays = [data.token_ids, data.offsets, data.targets.embeddings, data.held_out_embeddings]
        arrays += [inheritance.token_counts, *self.teacher.weights.values()]
        if inheritance.static_table is not None:
            arrays.append(inheritance.static_table)
        return 2 * sum(array.nbytes for array in arrays)

    @property
    def teacher_name(self) -> str:
        """The teachers' names, joined by ` + `."""
        return " + ".join(teacher.name for teacher in self.teachers)

    @property
    def identity(self) -> dict[str, str]:
        """What the meaning of a fidelity depends on: changes with teachers and held-out text."""
        return {"teachers": _digest([teacher.weights_sha256 for teacher in self.teachers]), "corpus": self.corpus.key}


def prepare(study: StudySpec, *, store: Store, plan: TimePlan, reporter: Reporter) -> Prepared:
    """Everything before the first trial, from what earlier commands left where they left it.

    Uses all CPUs, except for the calibration, which wants the machine for itself. Raises ValueError or
    FileNotFoundError, with the remedy, if a teacher or the corpus cannot be used.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        return _prepare(study, store=store, plan=plan, reporter=reporter)
    finally:
        torch.set_num_threads(threads)


def _prepare(study: StudySpec, *, store: Store, plan: TimePlan, reporter: Reporter) -> Prepared:
    state = StudyState.of(store, study.name)
    reporter.step("reading the teacher")
    teachers = tuple(load_teacher(spec) for spec in study.teachers)
    require_one_dimension(teachers)
    calibration = _calibrate(study, teachers[0], store=store, plan=plan, reporter=reporter)
    predictor = LatencyPredictor.fit(calibration)
    error = _predictor_error(predictor)
    errs = "is untested: the space holds too few architectures"
    if error is not None:
        errs = (
            f"errs by {error.median_absolute_percentage_error:.1f}% (median) on {error.n} unseen architectures, "
            f"rank correlation {error.rank_correlation:.3f}"
        )
    reporter.say(f"{teachers[0].name} takes {calibration.teacher_latency_ms:.3g} ms; the latency predictor {errs}")
    corpora = _corpora(study, teachers, store=store, reporter=reporter)
    held_out = _held_out(study, teachers, corpora, store=store, reporter=reporter)
    caches = _caches(study, teachers, corpora, store=store, state=state, plan=plan, reporter=reporter)
    data = _data(study, corpora[0], caches, held_out)
    table = _static_table(teachers[0], data, state=state, plan=plan, seed=study.search.seed, reporter=reporter)
    reporter.step("ranking the teacher's layers")
    n = len(data.offsets) - 1
    return Prepared(
        teachers=teachers,
        corpora=corpora,
        calibration=calibration,
        predictor=predictor,
        predictor_error=error,
        data=data,
        inheritance=prepare_inheritance(teachers[0], corpora[0].train.take(n), static_table=table),
    )


def _predictor_error(predictor: LatencyPredictor) -> PredictorError | None:
    n_students = len({point.spec for point in predictor.calibration.points[1:]})
    return predictor.cross_validated() if n_students >= MIN_CROSS_VALIDATED else None


def _calibrate(study: StudySpec, teacher: Teacher, *, store: Store, plan: TimePlan, reporter: Reporter) -> Calibration:
    specs = sample_architectures(study, teacher.spec, seed=0)
    bar = reporter.step(f"measuring the latency of {len(specs)} architectures")
    return cached_calibration(
        store.cache / "latency", teacher.spec, specs, study.profile, seconds=plan.calibration_s(len(specs)), progress=bar
    )


def _corpora(
    study: StudySpec, teachers: tuple[Teacher, ...], *, store: Store, reporter: Reporter
) -> tuple[Corpus, ...]:
    """The corpus in every teacher's tokens; its sentences and their order depend on the text alone."""
    longest = min(study.corpus.max_tokens, *(teacher.max_tokens for teacher in teachers))
    corpora = []
    for teacher in teachers:
        bar = reporter.step(f"tokenising the corpus for {teacher.name}")
        corpora.append(
            prepare_corpus(
                study.corpus,
                tokenizer_json=teacher.tokenizer_json,
                max_tokens=longest,
                cache_dir=store.cache / "corpora",
                progress=bar,
            )
        )
    train, held_out = corpora[0].train, corpora[0].held_out
    reporter.say(f"corpus: {len(train):,} sentences to train on, {len(held_out):,} held out")
    return tuple(corpora)


def _held_out(
    study: StudySpec, teachers: tuple[Teacher, ...], corpora: tuple[Corpus, ...], *, store: Store, reporter: Reporter
) -> NDArray[np.float32]:
    """The teachers' float32 vectors of the held-out sentences: the target of every fidelity."""
    vectors = []
    for teacher, corpus in zip(teachers, corpora, strict=True):
        path = store.cache / "held-out" / f"{_digest([teacher.weights_sha256, corpus.key, str(teacher.spec)])}.npy"
        if not path.exists():
            reporter.step(f"embedding the held-out sentences with {teacher.name}")
            _save_array(path, embed(teacher.student(), corpus.held_out))
        vectors.append(np.load(path, allow_pickle=False))
    return combine(vectors, weights=[spec.weight for spec in study.teachers])


def _caches(
    study: StudySpec,
    teachers: tuple[Teacher, ...],
    corpora: tuple[Corpus, ...],
    *,
    store: Store,
    state: StudyState,
    plan: TimePlan,
    reporter: Reporter,
) -> tuple[TeacherCache, ...]:
    """The teachers' outputs for as much of the training text as the time allows, and no less than before."""
    available = len(corpora[0].train)
    before = min(available, (state.read("preparation") or {}).get("n_sentences", 0))

    def build(n: int, *, seconds: float | None = None) -> tuple[TeacherCache, ...]:
        start = time.monotonic()
        caches = []
        for i, (teacher, corpus) in enumerate(zip(teachers, corpora, strict=True)):
            deadline = None if seconds is None else start + seconds * (i + 1) / len(teachers)
            caches.append(
                _cache(study, teacher, corpus, n, store=store, is_first=i == 0, deadline=deadline, reporter=reporter)
            )
        return tuple(caches)

    n = available
    if plan.cache_s is not None:
        probe_s = PROBE_SHARE * plan.cache_s
        start = time.monotonic()
        probed = min(cache.n_sentences for cache in build(available, seconds=probe_s))
        rate = probed / max(time.monotonic() - start, 1e-9)
        n = n_sentences(rate, plan.cache_s, available=available, at_least=before)
    caches = build(n)
    state.write("preparation", {"n_sentences": n})
    return caches


def _cache(
    study: StudySpec,
    teacher: Teacher,
    corpus: Corpus,
    n: int,
    *,
    store: Store,
    is_first: bool,
    deadline: float | None,
    reporter: Reporter,
) -> TeacherCache:
    """One teacher's outputs; the first one's relations and hidden states too, if a recipe may use them."""
    bar = reporter.step(f"embedding {n:,} sentences with {teacher.name}")

    def announce(plan: CachePlan) -> None:
        if plan.n_bytes and deadline is None:
            reporter.say(f"the cache of {teacher.name} grows by {plan.n_bytes / 1e6:,.0f} MB in {plan.path}")

    return build_cache(
        teacher,
        corpus.train,
        cache_dir=store.cache / "teachers",
        n_sentences=n,
        needs_relations=is_first and may_use(study, "query_key", "value_value"),
        needs_hidden=is_first and may_use(study, "hidden"),
        deadline=deadline,
        progress=bar,
        announce=announce,
    )


def may_use(study: StudySpec, *losses: str) -> bool:
    """Whether a recipe of the study may give one of these losses a weight."""
    space = study.space
    for name in losses:
        if float(space.fixed.get(name) or 0.0) > 0.0:
            return True
        domain = space.domains.get(name)
        if isinstance(domain, Choice):
            if any(float(option or 0.0) > 0.0 for option in domain.options):
                return True
        elif domain is not None and domain.high > 0:
            return True
    return False


def _data(
    study: StudySpec, corpus: Corpus, caches: tuple[TeacherCache, ...], held_out: NDArray[np.float32]
) -> DistillationData:
    """The arrays of training and held-out text.

    Plain arrays, as subclasses are copied into every worker; what there is for every token stays in its file.
    """
    n = caches[0].n_sentences
    train, held, targets = corpus.train, corpus.held_out, caches[0].targets
    weights = [spec.weight for spec in study.teachers]
    return DistillationData(
        token_ids=np.asarray(train.tokens[: train.offsets[n]]),
        offsets=np.asarray(train.offsets[: n + 1]),
        targets=replace(
            targets,
            embeddings=np.asarray(combine([cache.embeddings for cache in caches], weights=weights)),
            queries=by_path(targets.queries),
            keys=by_path(targets.keys),
            values=by_path(targets.values),
            hidden=by_path(targets.hidden),
        ),
        held_out_token_ids=np.asarray(held.tokens),
        held_out_offsets=np.asarray(held.offsets),
        held_out_embeddings=np.asarray(held_out, dtype=np.float32),
    )


def _static_table(
    teacher: Teacher,
    data: DistillationData,
    *,
    state: StudyState,
    plan: TimePlan,
    seed: int,
    reporter: Reporter,
) -> NDArray[np.float32]:
    """The trained static table, from the study's folder unless this command may train it for much longer."""
    path, seconds = state.folder / "static-table.npy", plan.table_s(len(data.token_ids))
    before = state.read("static-table") or {}
    if path.exists() and seconds < TABLE_AGAIN * before.get("seconds", 0.0):
        known: NDArray[np.float32] = np.load(path, allow_pickle=False)
        return known
    reporter.step(f"training the static table for {seconds:.0f} s")
    table = train_static_table(teacher, data, seconds=seconds, seed=seed)
    _save_array(path, table)
    state.write("static-table", {"seconds": seconds})
    return table


def _save_array(path: Path, array: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    os.replace(temporary, path)


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
