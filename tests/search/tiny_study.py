# SPDX-License-Identifier: Apache-2.0
"""A study that runs in seconds: a random BERT of two layers, a few hundred sentences, rungs of a few batches."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from spaces.study import StudySpec, parse_study

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
ENDINGS = ("a", "el", "im", "o", "un", "ar", "ik", "esh")
WORDS = tuple(f"{first}{last}" for first in "bcdfglmnprstvz" for last in ENDINGS)

STUDY = """
name: tiny
teachers: [{teacher}]
corpus: {{sources: [{text}], held_out: 48, min_characters: 5, min_words: 3, max_tokens: 16}}
profile: {{n_tokens: 8}}
search: {{rungs: [600, 1200], n_trials: 4, n_workers: 2, n_startup_trials: 4, time_budget: 900s}}
graduation: {{n_tokens: 6000, n_workers: 2, max_students: 3}}
space:
  n_layers: {{low: 0, high: 2}}
  n_heads: [2, 4]
  units: [32, 64]
  static_path: [true, false]
  learning_rate: {{low: 5.0e-4, high: 5.0e-3, log: true}}
  batch_tokens: 128
  warmup_tokens: 100
initial_points:
  - {{n_layers: 1, n_heads: 4, units: 64, static_path: true}}
  - {{n_layers: 0}}
"""


def tiny_study(folder: Path) -> StudySpec:
    """The study, with its teacher and its text in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_teacher(folder / "teacher")
    write_text(folder / "text.txt", n=600)
    return parse_study(STUDY.format(teacher=folder / "teacher", text=folder / "text.txt"), folder=folder)


def longer(study: StudySpec, *, n_tokens: int) -> StudySpec:
    """The study with longer graduations."""
    return replace(study, graduation=replace(study.graduation, n_tokens=n_tokens))


def write_teacher(folder: Path, *, seed: int = 0) -> None:
    """A transformers folder: width 32, 2 layers, 4 heads, about 120 whole words."""
    torch.manual_seed(seed)
    words = [*SPECIAL, *WORDS]
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names).save_pretrained(folder)


def write_text(path: Path, *, n: int) -> None:
    """A file of `n` different sentences of 3 to 12 of the teacher's words."""
    generator = random.Random(0)
    sentences = {" ".join(generator.choices(WORDS, k=generator.randint(3, 12))) for _ in range(n)}
    path.write_text("\n".join(sorted(sentences)) + "\n", encoding="utf-8")
