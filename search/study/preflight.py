# SPDX-License-Identifier: Apache-2.0
"""Checks before a search computes anything: runtime, text, teachers, space, cluster.

A study file that parses may still name a teacher without a tokenizer, teachers of different dimensions, text without a
usable sentence, or points that are invalid for its teacher. The checks take seconds: a local teacher is loaded and its
checksum compared; of each text file only the beginning is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.workers.memory_limit import require_memory_limits
from search.workers.temporary_folder import require_temporary_folder
from spaces.errors import UserError
from spaces.profile import Runtime
from spaces.study import SearchSpec, SourceKind, StudySpec, TeacherSpec, impossible_points, load_study
from spaces.study.spec import PRUNERS, SAMPLERS

if TYPE_CHECKING:
    from trainers.teacher.load import Teacher

Say = Callable[[str], None]
"""Receives one message for people."""

LOCAL = "local"
_ADDRESS = re.compile(
    r"(?:ray://)?(?:\[(?P<ipv6>[0-9A-Fa-f:]+)\]|(?P<host>[A-Za-z0-9][A-Za-z0-9._-]*)):(?P<port>\d{1,5})"
)
_SHOWN = 5  # impossible points in a message


def validate_study(path_or_name: str | Path, *, say: Say = lambda line: None) -> StudySpec:
    """The study of a file or preset, checked; nothing is run, downloaded or written.

    `say` is told of filters that drop much text. Raises ValueError or FileNotFoundError with all mistakes of the file,
    else the first of `check_study`.
    """
    study = load_study(path_or_name)
    check_study(study, download=False, say=say)
    return study


def check_study(study: StudySpec, *, download: bool = True, say: Say = lambda line: None) -> None:
    """Raises ValueError or FileNotFoundError if runtime, text, teachers or space cannot be used, or not together.

    With `download` a teacher on the Hugging Face hub is downloaded; without, it is checked only if it is in the cache.
    `say` is told of filters that drop more than a tenth of the first texts of a file.
    """
    from trainers.text.corpus import check_text
    from trainers.text.filter import warnings_of

    check_runtime(study.profile.runtime)
    check_search(study.search)
    if study.search.trial_memory_gib is not None:
        require_memory_limits()
    for warning in warnings_of(study.corpus, check_text(study.corpus)):
        say(warning)
    loaded = [_load_available(spec, download=download) for spec in study.teachers]
    teachers = [teacher for teacher in loaded if teacher is not None]
    require_one_dimension(teachers)
    if teachers and len(teachers) == len(study.teachers):
        check_space(study, teachers[0])


def check_search(search: SearchSpec) -> None:
    """Raises ValueError for a sampler or a pruner MODULE:CLASS that is not one of Optuna's kind or cannot be made."""
    if search.sampler in SAMPLERS and search.pruner in PRUNERS:
        return  # ours and Optuna's need no look, and no import of Optuna
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    from search.trials.sampling import make_from_class_path

    if search.sampler not in SAMPLERS:
        make_from_class_path("sampler", search.sampler, BaseSampler)
    if search.pruner not in PRUNERS:
        make_from_class_path("pruner", search.pruner, BasePruner)


def check_runtime(runtime: Runtime) -> None:
    """Raises ValueError if the latency profile's runtime is not installed on this machine."""
    from trainers.measure.backends.runtimes import backend_of

    missing = backend_of(runtime).missing()
    if missing is not None:
        raise UserError(
            f"latency on the runtime {runtime} needs {' and '.join(missing.parts)}, which is not installed here; "
            f"{missing.remedy}, or set the profile's runtime to {Runtime.TORCH}"
        )


def require_one_dimension(teachers: Sequence[Teacher]) -> None:
    """Raises ValueError unless all teachers' vectors have the same dimension, so that they can be averaged."""
    dimensions = {teacher.source: teacher.spec.output_dim for teacher in teachers}
    if len(set(dimensions.values())) > 1:
        listed = ", ".join(f"{source} {dimension}" for source, dimension in dimensions.items())
        raise UserError(
            f"the teachers of a study must have vectors of the same dimension, got {listed}; "
            "keep teachers of one dimension, or make one study for each"
        )


def check_space(study: StudySpec, teacher: Teacher) -> None:
    """Raises ValueError if points of the space, or the latency profile, are invalid for the teacher."""
    impossible = impossible_points(study.space, teacher=teacher.spec)
    if impossible:
        lines = [f"{point}: {point.rule}; {point.remedy}" for point in impossible[:_SHOWN]]
        if len(impossible) > _SHOWN:
            lines.append(f"and {len(impossible) - _SHOWN} more")
        raise UserError(
            f"study {study.name}: its space has points that are invalid for students of {teacher.name}\n"
            + "\n".join(f"  {line}" for line in lines)
        )
    for point in study.initial_points:
        study.space.decode(point, teacher.spec)
    limit = teacher.spec.max_tokens
    if limit is not None and study.profile.n_tokens > limit:
        raise UserError(
            f"the latency profile's n_tokens must not exceed the teacher's positions, got {study.profile.n_tokens} and "
            f"{limit}; lower profile.n_tokens"
        )


def require_address(text: str) -> str:
    """Returns the address. Raises ValueError unless it is auto, local, HOST:PORT or ray://HOST:PORT."""
    match = _ADDRESS.fullmatch(text)
    if text not in ("auto", LOCAL) and (match is None or not 1 <= int(match["port"]) <= 65535):
        raise UserError(f"the address of a Ray cluster is auto, local, HOST:PORT or ray://HOST:PORT, got {text!r}")
    return text


def check_cluster(address: str | None) -> None:
    """Raises ValueError unless a Ray cluster answers at the address and accepts the token; disconnects again.

    None is `RAY_ADDRESS`. Without either the search starts Ray itself, and its temporary folder is checked.
    """
    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    if require_address(address) != LOCAL:
        from search.workers.cluster import cluster

        with cluster(address):
            pass
    else:
        require_temporary_folder()


def _load_available(spec: TeacherSpec, *, download: bool) -> Teacher | None:
    """The teacher; None if it is on the hub, not in the cache, and must not be downloaded."""
    from trainers.teacher.load import load_teacher
    from trainers.text.hub import download_model

    if spec.kind is SourceKind.HUB and not download:
        try:
            download_model(spec.reference, offline=True)
        except ValueError:
            return None
    return load_teacher(spec)
