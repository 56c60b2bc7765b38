# SPDX-License-Identifier: Apache-2.0
"""Prepares a study: teachers, corpus, calibration, cached teacher outputs, static table, inheritance.

Results are cached: corpora, teacher outputs and calibrations in the store's cache, shared by all studies; the static
table and the size of the training text in the study's folder. A second command computes none of them again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from search.console.progress import Reporter
from search.records.formatting import format_ms
from search.storage.disk_space import require_disk_space
from search.storage.store import Store
from search.storage.study_state import CALIBRATION, StateFile, StudyState
from search.study.budget import REDO_FACTOR, TimePlan
from search.study.calibration_sample import sample_architectures
from search.study.limits import SEARCHED
from search.study.preflight import require_one_dimension
from search.study.teacher_outputs import cache_outputs, digest_of, embed_held_out, join_data, save_array
from spaces.study.spec import Device, StudySpec
from trainers.distil.loop import DistillationData
from trainers.distil.static_table import train_static_table
from trainers.inherit.inherit import Inheritance, prepare_inheritance
from trainers.inherit.layer_ranking import cached_ranking
from trainers.measure.calibration import Calibration, cached_calibration
from trainers.measure.predictor import MIN_CROSS_VALIDATED, LatencyPredictor, PredictorError
from trainers.teacher.load import Teacher, load_teacher
from trainers.text.corpus import Corpus, prepare_corpus
from trainers.text.filter import counts_lines, warnings_of

TABLE_SECONDS: StateFile[float] = StateFile(
    name="static-table",
    to_json=lambda seconds: {"seconds": seconds},
    from_json=lambda document: float(document["seconds"]),
)
"""Seconds for which the static table beside this fact was trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What trials, graduation and references need: plain values and memory-mapped files."""

    teachers: tuple[Teacher, ...]
    """At least one; the first gives tokenizer, shape and weights to students."""
    corpora: tuple[Corpus, ...]
    """The corpus in each teacher's tokens: the same sentences in the same order."""
    calibration: Calibration
    """Measured latencies of architectures of the space on this machine."""
    predictor: LatencyPredictor
    """Fitted to the calibration."""
    predictor_error: PredictorError | None
    """Cross-validated error of the predictor; None: too few architectures for cross-validation."""
    held_out_at_depths: NDArray[np.float32]
    """[layers, held-out sentences, dim]: vectors of the first teacher cut to its first k layers."""
    data: DistillationData
    """Training text with the teachers' outputs, and held-out text."""
    inheritance: Inheritance
    """What students are initialised from."""
    device: Device
    """The device of teachers and of training."""

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
        """Number of training sentences."""
        return len(self.data.offsets) - 1

    @property
    def n_object_bytes(self) -> int:
        """Bytes that Ray's object store must hold: data and inherited weights, for search and for graduation each."""
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
        """Digests of teachers and corpus; fidelities are comparable only where both are equal."""
        return {"teachers": digest_of([teacher.weights_sha256 for teacher in self.teachers]), "corpus": self.corpus.key}


def prepare(study: StudySpec, *, store: Store, plan: TimePlan, reporter: Reporter) -> Prepared:
    """Everything that the first trial needs; results of earlier commands are read instead of computed.

    Uses all CPUs, except for the calibration, which needs an idle machine. Raises ValueError or FileNotFoundError if a
    teacher or the corpus cannot be used.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        return _prepare(study, store=store, plan=plan, reporter=reporter)
    finally:
        torch.set_num_threads(threads)


def _prepare(study: StudySpec, *, store: Store, plan: TimePlan, reporter: Reporter) -> Prepared:
    state = StudyState.of(store, study.name)
    device = torch.device(study.search.device)
    reporter.step("reading the teacher")
    teachers = tuple(load_teacher(spec) for spec in study.teachers)
    require_one_dimension(teachers)
    if len(teachers) == 1 and not teachers[0].spec.normalise:  # vectors of several teachers are scaled to length 1
        reporter.say(
            f"{teachers[0].name}'s vectors are not of length 1 and compared by {teachers[0].similarity}: students "
            "imitate their length too"
        )
    if state.read(SEARCHED) is None:
        require_disk_space(store.root, teachers[0].spec, n_workers=study.search.n_workers or os.cpu_count() or 1)
    calibration = _calibrate(study, teachers[0], store=store, plan=plan, reporter=reporter)
    state.write(CALIBRATION, calibration)
    predictor = LatencyPredictor.fit(calibration)
    error = _predictor_error(predictor)
    quality = "is not validated: the space has too few architectures"
    if error is not None:
        quality = (
            f"has a median error of {error.median_absolute_percentage_error:.1f}% on {error.n} unseen architectures, "
            f"rank correlation {error.rank_correlation:.3f}"
        )
    reporter.say(
        f"{teachers[0].name} takes {format_ms(calibration.teacher_latency_ms)} ms; the latency predictor {quality}"
    )
    corpora = _corpora(study, teachers, store=store, reporter=reporter)
    held_out = embed_held_out(teachers, corpora, store=store, device=device, reporter=reporter)
    caches = cache_outputs(study, teachers, corpora, store=store, state=state, plan=plan, reporter=reporter)
    data = join_data(study, corpora[0], caches, held_out)
    seed = study.search.seed
    table = _static_table(teachers[0], data, state=state, plan=plan, seed=seed, device=device, reporter=reporter)
    text = corpora[0].train.take(len(data.offsets) - 1)
    layers = cached_ranking(
        store.cache / "layers",
        teachers[0],
        text,
        device=device,
        announce=lambda: reporter.step("ranking the teacher's layers"),
    )
    return Prepared(
        teachers=teachers,
        corpora=corpora,
        calibration=calibration,
        predictor=predictor,
        predictor_error=error,
        held_out_at_depths=held_out[0],
        data=data,
        inheritance=prepare_inheritance(
            teachers[0], text, targets=data.targets.embeddings, static_table=table, layers=layers, device=device
        ),
        device=study.search.device,
    )


def _predictor_error(predictor: LatencyPredictor) -> PredictorError | None:
    n_students = len({point.spec for point in predictor.calibration.points[1:]})
    return predictor.cross_validated() if n_students >= MIN_CROSS_VALIDATED else None


def _calibrate(study: StudySpec, teacher: Teacher, *, store: Store, plan: TimePlan, reporter: Reporter) -> Calibration:
    specs = sample_architectures(study, teacher.spec, seed=0)
    bar = reporter.step(f"measuring the latency of {len(specs)} architectures")
    seconds = plan.calibration_s(len(specs))
    return cached_calibration(
        store.cache / "latency", teacher.spec, specs, study.profile, seconds=seconds, progress=bar
    )


def _corpora(
    study: StudySpec, teachers: tuple[Teacher, ...], *, store: Store, reporter: Reporter
) -> tuple[Corpus, ...]:
    """The corpus in each teacher's tokens, truncated alike; sentences and their order depend on the text only."""
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
    _report_text(study, corpora[0], reporter=reporter)
    return tuple(corpora)


def _report_text(study: StudySpec, corpus: Corpus, *, reporter: Reporter) -> None:
    """Says how much text there is, how much of each source every filter dropped, and which dropped much."""
    repeated = f"; {n:,} repeated" if (n := corpus.counts["repeated"]) else ""
    reporter.say(f"corpus: {len(corpus.train):,} sentences to train on, {len(corpus.held_out):,} held out{repeated}")
    for line in (*counts_lines(study.corpus, corpus.sources), *warnings_of(study.corpus, corpus.sources)):
        reporter.say(line)


def _static_table(
    teacher: Teacher,
    data: DistillationData,
    *,
    state: StudyState,
    plan: TimePlan,
    seed: int,
    device: torch.device,
    reporter: Reporter,
) -> NDArray[np.float32]:
    """The trained static table, read from the study's folder unless `REDO_FACTOR` times as much time is allowed now."""
    path, n = state.folder / "static-table.npy", len(data.token_ids)
    seconds = plan.table_s(n)
    if path.exists() and seconds < REDO_FACTOR * (state.read(TABLE_SECONDS) or 0.0):
        known: NDArray[np.float32] = np.load(path, allow_pickle=False)
        return known
    reporter.step(f"training the static table for about {seconds:.0f} s")
    limit_s = None if plan.budget_s is None else seconds
    n_tokens = plan.table_tokens(n)
    table = train_static_table(teacher, data, n_tokens=n_tokens, seconds=limit_s, seed=seed, device=device)
    save_array(path, table)
    state.write(TABLE_SECONDS, seconds)
    return table
