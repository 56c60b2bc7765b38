# SPDX-License-Identifier: Apache-2.0
"""A complete run on your own teacher and text: search, front, selection, export, embedding and report.

    python examples/own_teacher.py [FOLDER]

The teacher is a folder as transformers writes it, here a random BERT of two layers; the text is a column of a CSV file.
Replace them by your own: a folder with config.json, model.safetensors and tokenizer.json of a BERT, RoBERTa,
XLM-RoBERTa or DistilBERT (with sentence-transformers' modules.json, if there is one), or `hub:NAME`. Takes about two
minutes on two cores. Needs `pip install '.[search]'`.
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from runtime import load
from search.export.formats import ExportFormat, export_model
from search.records.front_table import front_markdown
from search.report.page import write_report
from search.storage.store import Store
from search.study.preflight import validate_study
from search.study.run import run_search
from search.tracking.select import select

STUDY = """\
name: reviews
teachers:
  - source: teacher # relative to this file
corpus:
  sources: [{source: reviews.csv, column: text}]
  held_out: 64
  min_words: 3
  max_tokens: 16
profile: {n_tokens: 8} # latency of one sentence of 8 tokens on one thread
search: {n_trials: 6, rungs: [1000, 3000]} # training tokens; real studies have a hundred times as many
graduation: {n_tokens: 9000, max_students: 3}
space:
  n_layers: {low: 0, high: 2}
  units: [32, 64]
  static_path: [true, false]
  relative_learning_rate: {low: 2.0e-3, high: 2.0e-2, log: true} # times the error before training
  batch_tokens: 128
  warmup_tokens: 200
"""
WORDS = [first + last for first in "bcdfglmnprstvz" for last in ("a", "el", "im", "o", "un", "ar", "ik", "esh")]


def write_teacher(folder: Path) -> None:
    """Writes a BERT of two layers with random weights and a word-level tokenizer."""
    torch.manual_seed(0)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names).save_pretrained(folder)


def write_reviews(path: Path, *, n: int = 2000) -> None:
    """Writes a CSV file with the columns `stars` and `text`."""
    generator = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["stars", "text"])
        for _ in range(n):
            words = generator.choices(WORDS, k=generator.randint(5, 12))
            writer.writerow([generator.randint(1, 5), " ".join(words)])


def main(folder: Path) -> None:
    """Writes teacher, text and study into `folder`, runs the search, and uses the balanced student."""
    folder.mkdir(parents=True, exist_ok=True)
    write_teacher(folder / "teacher")
    write_reviews(folder / "reviews.csv")
    (folder / "study.yaml").write_text(STUDY)

    study = validate_study(folder / "study.yaml")  # raises one ValueError with all mistakes
    store = Store(folder / "understudy-store")
    front = run_search(study, store=store)  # run again, it resumes, or returns at once if complete
    print(front_markdown(front))

    chosen = select(store, study.name, balanced=True)  # or max_latency_ms=2.0, or min_fidelity=0.95
    print(f"{chosen.name}: {chosen.latency_ms:.4f} ms, {chosen.speedup:.0f} x, cosine {chosen.fidelity.cosine:.3f}")

    student = export_model(store, f"{study.name}@balanced", folder / "student", format=ExportFormat.FOLDER)
    vectors = load(student).encode(["ba del fim go", "lun mar"])  # needs no torch
    print(f"{student}: vectors of shape {vectors.shape}")
    print(write_report(store, study.name, folder / "report.html"))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("own-teacher"))
