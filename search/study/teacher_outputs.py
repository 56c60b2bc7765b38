# SPDX-License-Identifier: Apache-2.0
"""Runs the teachers on a study's text: cached outputs for training, float32 vectors of the held-out sentences.

No later step runs a teacher. How much of the training text is embedded depends on the time budget.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.atomic import atomic_file
from search.console.progress import Reporter
from search.storage.store import Store
from search.storage.study_state import StateFile, StudyState
from search.study.budget import REDO_FACTOR, TimePlan, n_sentences
from search.workers.mapped_array import by_path
from spaces.domain import Choice
from spaces.recipe import LOSSES, TeacherOutput
from spaces.study.spec import StudySpec
from trainers.distil.loop import DistillationData
from trainers.teacher.cache import CachePlan, TeacherCache, build_cache, combine
from trainers.teacher.depths import embed_at_every_depth
from trainers.teacher.load import Teacher
from trainers.text.corpus import Corpus

PROBE_SENTENCES = 4096
"""Sentences per pass of the speed measurement (a warm-up pass and a timed one); they stay in the cache."""
_RELATIONS = (TeacherOutput.QUERIES, TeacherOutput.KEYS, TeacherOutput.VALUES)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedText:
    """How much of the training text is embedded for a study, and under which time limit."""

    n_sentences: int
    """Training sentences embedded."""
    cache_s: float | None
    """Seconds that the time plan allowed; None: no limit."""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> CachedText:
        """The value of a stored JSON object."""
        cache_s = document.get("cache_s")
        return cls(n_sentences=int(document["n_sentences"]), cache_s=None if cache_s is None else float(cache_s))


CACHED_TEXT: StateFile[CachedText] = StateFile(name="preparation", to_json=asdict, from_json=CachedText.from_json)
"""The result of the last preparation."""


def embed_held_out(
    teachers: tuple[Teacher, ...],
    corpora: tuple[Corpus, ...],
    *,
    store: Store,
    device: torch.device,
    reporter: Reporter,
) -> tuple[NDArray[np.float32], ...]:
    """Each teacher's float32 vectors of the held-out sentences at every depth: [layers, sentences, dim]."""
    vectors = []
    for teacher, corpus in zip(teachers, corpora, strict=True):
        key = digest_of([teacher.weights_sha256, str(teacher.spec.to_json()), corpus.key])
        path = store.cache / "held-out" / f"{key}.npy"
        if not path.exists():
            reporter.step(f"embedding the held-out sentences with {teacher.name}")
            held = corpus.held_out
            save_array(path, embed_at_every_depth(teacher.student(device=device), held.tokens, held.offsets))
        vectors.append(np.load(path, mmap_mode="r", allow_pickle=False))
    return tuple(vectors)


def cache_outputs(
    study: StudySpec,
    teachers: tuple[Teacher, ...],
    corpora: tuple[Corpus, ...],
    *,
    store: Store,
    state: StudyState,
    plan: TimePlan,
    reporter: Reporter,
) -> tuple[TeacherCache, ...]:
    """The teachers' outputs for as much of the training text as the time plan allows, never less than before."""
    available, before = len(corpora[0].train), state.read(CACHED_TEXT) or CachedText(n_sentences=0, cache_s=None)
    n = min(available, before.n_sentences)
    if plan.cache_s is None:
        n = available
    elif not n or (before.cache_s is not None and plan.cache_s >= REDO_FACTOR * before.cache_s):
        reporter.step("measuring how fast the teacher embeds")
        fitting = _n_fitting(study, teachers, corpora, store=store, seconds=plan.cache_s)
        n = n_sentences(fitting, available=available, at_least=n)
    caches = []
    for teacher, corpus in zip(teachers, corpora, strict=True):
        bar = reporter.step(f"embedding {n:,} sentences with {teacher.name}")

        def announce(cache: CachePlan, name: str = teacher.name) -> None:
            if cache.n_bytes:
                reporter.say(f"the cache of {name} grows by {cache.n_bytes / 1e6:,.0f} MB in {cache.path}")

        options = _cache_options(study, store, is_first=teacher is teachers[0])
        caches.append(build_cache(teacher, corpus.train, n_sentences=n, progress=bar, announce=announce, **options))
    state.write(CACHED_TEXT, CachedText(n_sentences=n, cache_s=plan.cache_s))
    return tuple(caches)


def _n_fitting(
    study: StudySpec, teachers: tuple[Teacher, ...], corpora: tuple[Corpus, ...], *, store: Store, seconds: float
) -> float:
    """How many sentences all teachers together can embed in `seconds`, estimated; inf if all are embedded already.

    Embeds a first part untimed, as warm-up, and a second one timed; both stay in the cache, and each takes at most a
    quarter of a teacher's share of the time, but at least one chunk.
    """
    start, seconds_a_sentence, n_cached = time.monotonic(), 0.0, math.inf
    part_s = seconds / len(teachers) / 4
    for teacher, corpus in zip(teachers, corpora, strict=True):
        options = _cache_options(study, store, is_first=teacher is teachers[0])
        available = len(corpus.train)
        plans: list[CachePlan] = []
        first = min(PROBE_SENTENCES, available)
        cache = build_cache(
            teacher,
            corpus.train,
            n_sentences=first,
            deadline=time.monotonic() + part_s,
            announce=plans.append,
            **options,
        )
        before = max(cache.n_sentences, plans[0].n_cached)
        wanted = min(before + PROBE_SENTENCES, available)
        if wanted == before:
            continue
        begin = time.monotonic()
        cache = build_cache(teacher, corpus.train, n_sentences=wanted, deadline=begin + part_s, **options)
        seconds_a_sentence += (time.monotonic() - begin) / (cache.n_sentences - before)
        n_cached = min(n_cached, cache.n_sentences)
    left = max(0.0, seconds - (time.monotonic() - start))
    return math.inf if seconds_a_sentence == 0.0 else n_cached + left / seconds_a_sentence


def _cache_options(study: StudySpec, store: Store, *, is_first: bool) -> _CacheOptions:
    """Keyword arguments of `build_cache`: relations and hidden states only of the first teacher, and only if needed."""
    return {
        "cache_dir": store.cache / "teachers",
        "device": torch.device(study.search.device),
        "needs_relations": is_first and needs_outputs(study, *_RELATIONS),
        "needs_hidden": is_first and needs_outputs(study, TeacherOutput.HIDDEN),
    }


class _CacheOptions(TypedDict):
    cache_dir: Path
    device: torch.device
    needs_relations: bool
    needs_hidden: bool


def needs_outputs(study: StudySpec, *outputs: TeacherOutput) -> bool:
    """Whether a recipe of the study can have a positive weight of a loss that compares one of these outputs."""
    space = study.space
    for name, loss in LOSSES.items():
        if loss.compares.isdisjoint(outputs):
            continue
        if float(space.fixed.get(name) or 0.0) > 0.0:
            return True
        domain = space.domains.get(name)
        if isinstance(domain, Choice):
            if any(float(option or 0.0) > 0.0 for option in domain.options):
                return True
        elif domain is not None and domain.high > 0:
            return True
    return False


def join_data(
    study: StudySpec, corpus: Corpus, caches: tuple[TeacherCache, ...], held_out: tuple[NDArray[np.float32], ...]
) -> DistillationData:
    """The distillation data: training and held-out text with the teachers' weighted mean embeddings.

    Plain arrays, as Ray copies subclasses into every worker; per-token outputs stay memory-mapped files.
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
        held_out_embeddings=np.asarray(combine([np.asarray(layers[-1]) for layers in held_out], weights=weights)),
    )


def save_array(path: Path, array: NDArray[np.float32]) -> None:
    """Writes a .npy file atomically and durably."""
    with atomic_file(path, durable=True) as file:
        np.save(file, array, allow_pickle=False)


def digest_of(parts: list[str]) -> str:
    """The first 32 hexadecimal digits of the SHA-256 of the parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
