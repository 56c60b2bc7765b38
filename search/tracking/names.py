# SPDX-License-Identifier: Apache-2.0
"""Names of all tags and parameters in MLflow, with their meaning; metrics are in `search.tracking.metrics`.

All code that writes or reads a tag or a parameter takes its name from here; docs/metrics.md is made from these strings.
"""

from __future__ import annotations

from enum import StrEnum


class Tag(StrEnum):
    """Tags of runs, and of the study's experiment, registered model and logged models."""

    KIND = "understudy.kind"
    """`trial`, `reference` for a registered reference, or `summary` for the run of the study's front."""
    STUDY = "understudy.study"
    """Name of the study."""
    OWNER = "understudy.store"
    """On a server: identity of the store that made the experiment or model; no other store writes there."""
    TRIAL = "understudy.trial"
    """Name of the trial, such as `trial-0007`; of a continued one the latest."""
    STATE = "understudy.state"
    """running, complete, pruned, refused, failed or interrupted."""
    OUTCOME = "understudy.outcome"
    """Why the trial ended; empty while it runs."""
    STUDENT = "understudy.student"
    """The student in words."""


class VersionTag(StrEnum):
    """Tags of a registered model's versions: a measured student, readable without its files."""

    STUDENT = "student"
    """Name of its trial or reference."""
    DIGEST = "sha256"
    """Digest of its folder; the same student is the same version. A tag of the logged model, too."""
    ON_FRONT = "on_front"
    """`true`, or `false` once another student or a reference dominates it."""
    IS_REFERENCE = "is_reference"
    """`true` for a reference, such as `teacher-on-engine`; absent for the students of the search."""
    DOMINATED_BY = "dominated_by"
    """Name of the reference that dominates it, or empty."""
    PROFILE = "profile"
    """JSON of the conditions of its latency."""
    TEACHER = "teacher"
    """Name of the teacher."""
    SPEC = "spec"
    """JSON of the student: what `StudentSpec.from_json` reads."""
    N_LAYERS = "n_layers"
    """Layers; 0 for a table of token vectors."""
    LATENCY = "latency_ms"
    """Median latency in ms."""
    LATENCY_LOW = "latency_low_ms"
    """Lower end in ms of the median's 95% interval."""
    LATENCY_HIGH = "latency_high_ms"
    """Upper end in ms of the median's 95% interval."""
    SPEEDUP = "speedup"
    """The teacher's median latency in torch over this one's."""
    N_PARAMETERS = "n_parameters"
    """Numbers in all tensors."""
    N_BYTES = "n_bytes"
    """Bytes of the float32 weights."""


class RunParam(StrEnum):
    """What all trials of a command share: parameters of their runs, and tags `understudy.NAME` of the summary run."""

    TEACHER = "teacher"
    """Name of the teacher, or of several, joined by ` + `."""
    TEACHER_SHA256 = "teacher_sha256"
    """SHA-256 of each teacher's weights."""
    CORPUS_KEY = "corpus_key"
    """Digest of the prepared text."""
    DROPPED_TEXTS = "dropped_texts"
    """How many texts of each source were read, and how many each filter dropped."""
    TRAINING_SENTENCES = "training_sentences"
    """Sentences to train on."""
    HELD_OUT_SENTENCES = "held_out_sentences"
    """Sentences that fidelity is measured on."""
    PROFILE = "profile"
    """Conditions of the latency."""
    OBJECTIVE = "objective"
    """The measurement that is the study's fidelity."""
    PREDICTOR_ERROR = "predictor_error_percent"
    """Median absolute error of the latency predictor in percent, cross-validated."""
    PREDICTOR_RANK_CORRELATION = "predictor_rank_correlation"
    """Rank correlation of predicted and measured latencies, cross-validated."""
    COMMIT = "commit"
    """Commit of the checkout, with `-dirty` if files were changed; absent outside a checkout."""
    DEVICE = "device"
    """Processor, and GPU if there is one."""
    N_CPUS = "n_cpus"
    """CPUs of the driver's machine."""
    PYTHON = "python"
    """Version of Python."""
    TORCH = "torch"
    """Version of torch."""


class TrialParam(StrEnum):
    """Parameters of one trial beside its point, whose dimensions have the names of the study file."""

    SEED = "seed"
    """Seed of the initial weights and of the order of batches."""
    SPEC = "spec"
    """The student, flat: `spec.encoder.width`."""
    RECIPE = "recipe"
    """How it is distilled, flat: `recipe.learning_rate`."""


def fidelity_tag(field: str) -> str:
    """Name of a version's tag of a field of `Fidelity`."""
    return f"fidelity.{field}"
