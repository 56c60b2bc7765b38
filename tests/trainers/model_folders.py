# SPDX-License-Identifier: Apache-2.0
"""Tiny tokenizers, random Hugging Face models of each family in folders, and sentences in their vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

WORDS = ("the", "a", "is", "on", "of", "stone", "river", "house", "small", "old", "grey", "runs", "stands", "moon")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
N_POSITIONS = 20
ENCODER: dict[str, Any] = {"vocab_size": 40, "max_position_embeddings": N_POSITIONS}
STANDARD = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def sentences(n: int, *, seed: int, longest: int = 12) -> list[str]:
    """Distinct random sentences of known words."""
    generator = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < n:
        found[" ".join(generator.choice(WORDS, generator.integers(5, longest + 1))).capitalize() + " ."] = None
    return list(found)


def tokenizer_json(*, extra: tuple[str, ...] = (), lowercase: bool = True) -> str:
    """A word tokenizer that puts [CLS] and [SEP] around a sentence; `extra` words make it another one."""
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, ".", *WORDS, *extra))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(7)  # as published tokenizers have: the teacher's limit is another one
    tokenizer.enable_padding(length=7)
    return str(tokenizer.to_str())


def random_model(model_type: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model of a family whose random weights are large enough to make every part of it matter."""
    torch.manual_seed(seed)
    match model_type:
        case "bert":
            model: PreTrainedModel = BertModel(BertConfig(**ENCODER | STANDARD | changes))
        case "roberta":
            model = RobertaModel(RobertaConfig(**ENCODER | STANDARD | changes))
        case "xlm-roberta":
            model = XLMRobertaModel(XLMRobertaConfig(**ENCODER | STANDARD | changes))
        case "distilbert":
            sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
            model = DistilBertModel(DistilBertConfig(**ENCODER | sizes | changes))
        case _:
            raise ValueError(model_type)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def write_transformers(folder: Path, model: PreTrainedModel, *, tokenizer: str | None = None) -> Path:
    """A plain transformers folder, whose tokenizer is its tokenizer.json as it is."""
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer or tokenizer_json())
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512} | roles
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_sentence_transformers(
    folder: Path,
    model: PreTrainedModel,
    *,
    pooling: str = "mean",
    dense: torch.nn.Linear | None = None,
    activation: str = "torch.nn.modules.activation.Tanh",
    normalise: bool = True,
    max_tokens: int = 9,
) -> Path:
    """A folder of sentence-transformers' layout, as LaBSE's: encoder, pooling, dense, normalisation."""
    from safetensors.torch import save_file

    write_transformers(folder, model)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": max_tokens}))
    (folder / "1_Pooling").mkdir()
    keys = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "max": "pooling_mode_max_tokens"}
    settings = {"word_embedding_dimension": 32} | {key: mode == pooling for mode, key in keys.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    if dense is not None:
        modules.append(("2_Dense", "Dense"))
        (folder / "2_Dense").mkdir()
        sizes = {"in_features": dense.in_features, "out_features": dense.out_features, "bias": dense.bias is not None}
        (folder / "2_Dense" / "config.json").write_text(json.dumps(sizes | {"activation_function": activation}))
        tensors = {f"linear.{name}": value.detach() for name, value in dense.named_parameters()}
        save_file(tensors, folder / "2_Dense" / "model.safetensors")
    if normalise:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    document = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(document))
    return folder
