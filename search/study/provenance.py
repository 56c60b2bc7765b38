# SPDX-License-Identifier: Apache-2.0
"""Where a study's students come from, as their folders and MLflow's runs say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from search.records.objective import objective_of
from search.study.prepare import Prepared
from search.tracking.names import RunParam
from search.tracking.trial_runs import RunParams
from spaces.study.spec import SourceKind, SourceSpec, StudySpec
from trainers.text.filter import counts_lines


def origin_of(study: StudySpec, prepared: Prepared) -> dict[str, Any]:
    """What every student.json of the study says of where it comes from."""
    teacher = prepared.teacher
    return {
        "study": study.name,
        "teacher": {
            "name": prepared.teacher_name,
            "weights_sha256": teacher.weights_sha256,
            "similarity": teacher.similarity,
            "sources": [spec.source for spec in study.teachers if spec.kind is not SourceKind.FOLDER],
        },
        "corpus": {
            "sources": [_public_name(source) for source in study.corpus.sources],
            "key": prepared.corpus.key,
        },
        "tokenizer": {"max_tokens": teacher.max_tokens},
    }


def run_params(study: StudySpec, prepared: Prepared) -> RunParams:
    """The MLflow params that all runs of the study share."""
    error = prepared.predictor_error
    return {
        RunParam.TEACHER: prepared.teacher_name,
        RunParam.TEACHER_SHA256: ", ".join(teacher.weights_sha256 for teacher in prepared.teachers),
        RunParam.CORPUS_KEY: prepared.corpus.key,
        RunParam.DROPPED_TEXTS: "; ".join(counts_lines(study.corpus, prepared.corpus.sources)),
        RunParam.TRAINING_SENTENCES: prepared.n_sentences,
        RunParam.HELD_OUT_SENTENCES: len(prepared.data.held_out_embeddings),
        RunParam.PROFILE: json.dumps(study.profile.to_json()),
        RunParam.OBJECTIVE: objective_of(study.objective).name,
        RunParam.PREDICTOR_ERROR: None if error is None else error.median_absolute_percentage_error,
        RunParam.PREDICTOR_RANK_CORRELATION: None if error is None else error.rank_correlation,
    }


def _public_name(source: SourceSpec) -> str:
    """A source of text without the folders of this machine."""
    return Path(source.source).name if source.kind is SourceKind.FILE else source.source
