# SPDX-License-Identifier: Apache-2.0
"""The model card of an exported student: README.md with the metadata of Hugging Face's hub and what was measured.

Everything comes from the student's folder; what its student.json does not say is left out. `model-index` holds the
fidelity as the hub's evaluation results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import yaml

from runtime.folder import StudentFolder, student_digest
from search.records.formatting import describe_profile, format_ms
from search.records.objective import BASELINE, MEASUREMENTS
from spaces.profile import LatencyProfile
from spaces.student_words import describe
from trainers.measure.fidelity import Fidelity

TASK = "sentence-similarity"
_HUB = "hub:"


def model_card(student: StudentFolder, *, library: str, tags: tuple[str, ...], usage: str) -> str:
    """The text of README.md. `library` is the hub's name of what loads the folder, `usage` Markdown that shows how."""
    document = student.document
    name = f"{document.get('study', 'student')}: {describe(student.spec)}"
    fidelity, latency = _fidelity(document), _latency(document)
    metadata: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": TASK,
        "tags": ["feature-extraction", TASK, *tags, "distillation", "understudy"],
    }
    if bases := _base_models(document):
        metadata["base_model"] = bases
    if fidelity is not None:
        metadata |= {"metrics": [field.name for field in fields(fidelity)], "model-index": _results(name, fidelity)}
    parts = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n",
        f"# {name}\n",
        "A sentence encoder that was distilled from a larger one by Understudy. It gives one vector of "
        f"{student.spec.output_dim} numbers for a sentence, "
        f"{'of length 1' if student.spec.normalise else 'not normalised'}; {_longest(student)}.\n",
        usage,
        "## What it is\n",
        _table(_facts(student)),
    ]
    if latency is not None:
        parts += ["## Latency\n", latency]
    if fidelity is not None:
        parts += ["## Agreement with the teacher on held-out text\n", _fidelity_table(fidelity)]
    return "\n".join(parts)


def _longest(student: StudentFolder) -> str:
    if student.max_tokens is None:
        return "sentences may have any length"
    return f"sentences are cut at {student.max_tokens} tokens"


def _base_models(document: Mapping[str, Any]) -> list[str]:
    """Ids on the hub of the teachers that come from there."""
    sources = _entry(document, "teacher").get("sources", ())
    return [source.removeprefix(_HUB) for source in sources if source.startswith(_HUB) and "/" in source]


def _facts(student: StudentFolder) -> Iterator[tuple[str, str]]:
    document = student.document
    teacher, corpus, training = (_entry(document, name) for name in ("teacher", "corpus", "training"))
    yield "architecture", describe(student.spec)
    yield "parameters", f"{sum(array.size for array in student.weights.values()):,}"
    yield "teacher", str(teacher.get("name", ""))
    yield "SHA-256 of the teacher's weights", str(teacher.get("weights_sha256", ""))
    yield "trained on", ", ".join(map(str, corpus.get("sources", ())))
    yield "digest of the prepared text", str(corpus.get("key", ""))
    yield "tokens of its last training", f"{training['n_tokens']:,}" if "n_tokens" in training else ""
    yield "study and trial", " ".join(str(document[name]) for name in ("study", "trial") if name in document)
    yield "SHA-256 of spec, weights and tokenizer", student_digest(student.path)


def _latency(document: Mapping[str, Any]) -> str | None:
    """Median, interval, speed-up and conditions in a sentence; None if it was not measured."""
    measured = _entry(document, "measurements")
    try:
        low_ms, high_ms = measured["latency_interval_ms"]
        profile = LatencyProfile.from_json(measured["profile"])
        return (
            f"{format_ms(measured['latency_ms'])} ms (95% interval of the median {format_ms(low_ms)} to "
            f"{format_ms(high_ms)} ms), {measured['speedup']:.3g} times as fast as the teacher in PyTorch, measured as "
            f"{describe_profile(profile)} on {measured['machine']}. Another runtime, such as that of this export, has "
            "another latency.\n"
        )
    except (KeyError, TypeError, ValueError):
        return None


def _fidelity(document: Mapping[str, Any]) -> Fidelity | None:
    try:
        return Fidelity.from_json(_entry(document, "measurements")["fidelity"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _fidelity_table(fidelity: Fidelity) -> str:
    rows = [(each.label, each.format(each.read(fidelity))) for each in MEASUREMENTS]
    rows.append((f"{BASELINE} of a constant vector", f"{fidelity.constant_baseline:.4f}"))
    return _table(rows)


def _results(name: str, fidelity: Fidelity) -> list[dict[str, Any]]:
    """`model-index`, as the hub's documentation of model cards describes it."""
    metrics = [
        {"type": each.field, "name": each.label, "value": round(each.read(fidelity), each.digits)}
        for each in MEASUREMENTS
    ]
    dataset = {"type": "held-out-text", "name": "held-out text of the study"}
    return [
        {
            "name": name,
            "results": [
                {"task": {"type": TASK, "name": "imitation of the teacher"}, "dataset": dataset, "metrics": metrics}
            ],
        }
    ]


def _table(rows: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> str:
    lines = [f"| {key} | {value.replace('|', chr(92) + '|')} |" for key, value in rows if value]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"


def _entry(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}
