# SPDX-License-Identifier: Apache-2.0
"""What the command line's tests work on: a tiny teacher and study that are right, and a store with a front."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from runtime.folder import expected_tensors, write_folder
from search.records.front import Front, MeasuredStudent
from search.records.objective import COSINE
from search.report.page import report_html
from search.storage.store import Store
from search.tracking.client import create_store
from search.tracking.publish import register_front
from spaces.profile import LatencyProfile
from spaces.student import EncoderSpec, StaticSpec, StudentSpec, Switch
from trainers.measure.fidelity import Fidelity

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "another", "sentence", "number", "of", "a", "few", "words"]
WIDTH = 16


@dataclass(frozen=True)
class Bench:
    """A folder with `text.txt`, `teacher/` and `student/`, and a store with the front of the study `toy`."""

    folder: Path
    store: Store

    def study(self, *, sources: list[Any] | None = None, **changes: Any) -> Path:
        """A study file that is right but for the changes, which replace whole keys."""
        document: dict[str, Any] = {
            "name": "toy-study",
            "teachers": ["teacher"],
            "corpus": {"sources": sources or ["text.txt"], "held_out": 32, "min_characters": 15, "min_words": 3},
            "profile": {"n_tokens": 8},
            "search": {"rungs": [200, 400], "n_trials": 4},
            "graduation": {"n_tokens": 800},
            "space": {"n_layers": {"low": 0, "high": 2}},
        }
        path = self.folder / "study.yaml"
        path.write_text(json.dumps(document | changes))  # YAML contains JSON
        return path


def make_bench(folder: Path) -> Bench:
    """Everything that is right."""
    lines = [f"sentence number {i} of a few words" for i in range(200)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n")
    write_teacher(folder / "teacher", width=WIDTH)
    static = StudentSpec(vocabulary_size=len(WORDS), output_dim=WIDTH, static=StaticSpec())
    encoder = EncoderSpec(
        n_layers=1, width=WIDTH, n_heads=2, head_width=8, feed_forward=Switch(n_experts=2, units=16), max_tokens=24
    )
    switch = StudentSpec(vocabulary_size=len(WORDS), output_dim=WIDTH, encoder=encoder)
    write_student(folder / "student", static, seed=0)
    write_student(folder / "switch", switch, seed=1)
    store = create_store(Store(folder / "store"))
    document = Front(
        study="toy",
        teacher="tiny",
        profile=LatencyProfile(n_tokens=8),
        objective=COSINE,
        references=(entry("teacher", switch, latency_ms=4.0, cosine=1.0),),
        students=(
            entry("trial-0001", static, latency_ms=0.1, cosine=0.8),
            entry("trial-0002", switch, latency_ms=2.0, cosine=0.95),
        ),
    )
    folders = {"trial-0001": folder / "student", "trial-0002": folder / "switch"}
    register_front(store, document, page=report_html, folders=folders)
    return Bench(folder=folder, store=store)


def entry(name: str, spec: StudentSpec, *, latency_ms: float, cosine: float) -> MeasuredStudent:
    """An entry with numbers that nobody measured."""
    return MeasuredStudent.measured(
        name,
        spec,
        latency_ms=latency_ms,
        latency_interval_ms=(0.9 * latency_ms, 1.1 * latency_ms),
        teacher_latency_ms=4.0,
        fidelity=Fidelity(
            cosine=cosine,
            cosine_p5=cosine - 0.1,
            cosine_centred=cosine - 0.05,
            spearman=cosine,
            overlap_at_1=0.5,
            overlap_at_10=0.6,
            constant_baseline=0.3,
        ),
    )


def tokenizer() -> Tokenizer:
    """Whole words between [CLS] and [SEP]."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def write_student(folder: Path, spec: StudentSpec, *, seed: int) -> None:
    """A student folder with random weights."""
    generator = np.random.default_rng(seed)
    weights = {
        name: generator.standard_normal(shape, dtype=np.float32) for name, shape in expected_tensors(spec).items()
    }
    document = {"teacher": "tiny", "tokenizer": {"max_tokens": 24}}
    write_folder(folder, spec, weights=weights, tokenizer_json=tokenizer().to_str(), document=document)


def write_teacher(folder: Path, *, width: int) -> None:
    """A transformers folder of a tiny random BERT with two layers, pooled by the mean."""
    folder.mkdir()
    config = {
        "model_type": "bert",
        "num_hidden_layers": 2,
        "hidden_size": width,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 24,
        "type_vocab_size": 2,
        "vocab_size": len(WORDS),
        "position_embedding_type": "absolute",
    }
    generator = np.random.default_rng(0)
    shapes = {f"embeddings.{name}.weight": (rows, width) for name, rows in _TABLES.items()}
    for place in (
        "embeddings.",
        *(f"encoder.layer.{i}.{part}.output." for i in range(2) for part in ("attention", "")),
    ):
        norm = place.replace("..", ".") + "LayerNorm"
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for i in range(2):
        for name, (n_outputs, n_inputs) in _matrices(width).items():
            shapes[f"encoder.layer.{i}.{name}.weight"] = (n_outputs, n_inputs)
            shapes[f"encoder.layer.{i}.{name}.bias"] = (n_outputs,)
    weights = {name: generator.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer().save(str(folder / "tokenizer.json"))


_TABLES = {"word_embeddings": len(WORDS), "position_embeddings": 24, "token_type_embeddings": 2}


def _matrices(width: int) -> dict[str, tuple[int, int]]:
    attention = {f"attention.self.{name}": (width, width) for name in ("query", "key", "value")}
    return attention | {
        "attention.output.dense": (width, width),
        "intermediate.dense": (32, width),
        "output.dense": (width, 32),
    }
