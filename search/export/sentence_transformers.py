# SPDX-License-Identifier: Apache-2.0
"""Writes a student as a folder of standard sentence-transformers modules: no remote code, no pickle, no torch.

An encoder becomes Hugging Face's BertModel. Its head width is hidden_size / num_attention_heads, so narrower heads are
padded with zeros and their queries scaled to keep the scores; a factorised token table is multiplied out.

A static student becomes an XLNetModel without layers, whose hidden states are the token vectors. The module
StaticEmbedding does not fit: it drops the special tokens, which are part of a student's mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from runtime.folder import DOCUMENT_FILE, StudentFolder
from spaces.errors import UserError
from spaces.student import Activation, Dense, EncoderSpec, Pooling, Projection, StudentSpec
from trainers.teacher.layout import SIMILARITIES

Weights = Mapping[str, NDArray[np.float32]]

_ACTIVATIONS = {Activation.GELU: "gelu", Activation.GELU_TANH: "gelu_pytorch_tanh", Activation.RELU: "relu"}
_PAD_TOKENS = ("[PAD]", "<pad>")
_SPECIAL_TOKENS = {  # names of special tokens by role
    "pad_token": _PAD_TOKENS,
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}


def write_sentence_transformers(student: StudentFolder, out: Path) -> None:
    """Writes the modules to the folder `out`. Raises ValueError first if they cannot represent the student."""
    spec = student.spec
    _require_standard(spec)
    modules = ["Transformer", "Pooling"]
    if spec.encoder is not None:
        _write_bert(spec, spec.encoder, student.weights, out)
        width, pooling = spec.encoder.width, spec.encoder.pooling
    else:
        _write_table(spec, student.weights, out)
        width, pooling = spec.output_dim, Pooling.MEAN
    max_tokens = student.max_tokens
    _write_tokenizer(student.tokenizer_path, max_tokens, out)
    _write_json(out / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    _write_json(
        out / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": width,
            "pooling_mode_cls_token": pooling is Pooling.CLS,
            "pooling_mode_mean_tokens": pooling is Pooling.MEAN,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    if spec.encoder is not None and spec.encoder.projection is not None:
        modules.append("Dense")
        _write_projection(spec, spec.encoder, student.weights, out / "2_Dense")
    if spec.normalise:
        modules.append("Normalize")
        (out / f"{len(modules) - 1}_Normalize").mkdir()
    _write_json(
        out / "modules.json",
        [
            {
                "idx": i,
                "name": str(i),
                "path": "" if i == 0 else f"{i}_{name}",
                "type": f"sentence_transformers.models.{name}",  # the import path that works in all versions since 1.0
            }
            for i, name in enumerate(modules)
        ],
    )
    _write_json(out / "config_sentence_transformers.json", {"similarity_fn_name": _similarity(student)})


def _similarity(student: StudentFolder) -> str:
    """Name of the function that the teacher's vectors are compared by; cosine if the student's folder has none."""
    teacher = student.document.get("teacher")
    name = teacher.get("similarity") if isinstance(teacher, dict) else None
    if name not in (None, *SIMILARITIES):
        raise UserError(
            f"{student.path / DOCUMENT_FILE}: the teacher's similarity must be one of {', '.join(SIMILARITIES)}, got "
            f"{name!r}; correct it, or export the student again"
        )
    return name or "cosine"


def _require_standard(spec: StudentSpec) -> None:
    other = "export it as onnx or folder instead"
    if spec.encoder is None:
        return
    if spec.static is not None:
        raise UserError(
            "sentence-transformers has no module that adds a static path to an encoder, and this student has both; "
            + other
        )
    if not isinstance(spec.encoder.feed_forward, Dense):
        raise UserError(f"sentence-transformers' BertModel has no Switch layers, and this student has them; {other}")


def _write_bert(spec: StudentSpec, encoder: EncoderSpec, weights: Weights, out: Path) -> None:
    _write_json(
        out / "config.json",
        {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "vocab_size": spec.vocabulary_size,
            "hidden_size": encoder.width,
            "num_hidden_layers": encoder.n_layers,
            "num_attention_heads": encoder.n_heads,
            "intermediate_size": encoder.feed_forward.units,
            "hidden_act": _ACTIVATIONS[encoder.activation],
            "max_position_embeddings": encoder.max_tokens,
            "type_vocab_size": 1,
            "layer_norm_eps": encoder.layer_norm_epsilon,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "dtype": "float32",
        },
    )
    tensors = {name: np.ascontiguousarray(array) for name, array in _bert_tensors(encoder, weights)}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def _bert_tensors(encoder: EncoderSpec, weights: Weights) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """BertModel's state dict; tensors that a student lacks (token types, pooler) are zero."""
    width = encoder.width
    tokens = weights["embeddings.tokens"]
    if encoder.embedding_dim is not None:
        tokens = tokens @ weights["embeddings.expand"].T
    yield "embeddings.word_embeddings.weight", tokens
    yield "embeddings.position_embeddings.weight", weights["embeddings.positions"]
    yield "embeddings.token_type_embeddings.weight", np.zeros((1, width), np.float32)
    yield from _renamed("embeddings.LayerNorm", weights, "embeddings.norm")
    for i in range(encoder.n_layers):
        ours, theirs = f"layers.{i}", f"encoder.layer.{i}"
        # BertModel divides the scores by the square root of the padded head's width.
        scale_up = math.sqrt(width // encoder.n_heads / encoder.head_width)
        qkv = zip(
            ("query", "key", "value"),
            np.split(weights[f"{ours}.attention.qkv.weight"], 3),
            np.split(weights[f"{ours}.attention.qkv.bias"], 3),
            (scale_up, 1.0, 1.0),
            strict=True,
        )
        for part, weight, bias, scale in qkv:
            yield f"{theirs}.attention.self.{part}.weight", _pad_heads(weight * np.float32(scale), encoder)
            yield f"{theirs}.attention.self.{part}.bias", _pad_heads(bias * np.float32(scale), encoder)
        output = weights[f"{ours}.attention.output.weight"]
        yield f"{theirs}.attention.output.dense.weight", _pad_heads(output.T, encoder).T
        yield f"{theirs}.attention.output.dense.bias", weights[f"{ours}.attention.output.bias"]
        yield from _renamed(f"{theirs}.attention.output.LayerNorm", weights, f"{ours}.attention.norm")
        yield from _renamed(f"{theirs}.intermediate.dense", weights, f"{ours}.feed_forward.input")
        yield from _renamed(f"{theirs}.output.dense", weights, f"{ours}.feed_forward.output")
        yield from _renamed(f"{theirs}.output.LayerNorm", weights, f"{ours}.feed_forward.norm")
    yield "pooler.dense.weight", np.zeros((width, width), np.float32)
    yield "pooler.dense.bias", np.zeros(width, np.float32)


def _renamed(theirs: str, weights: Weights, ours: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    yield f"{theirs}.weight", weights[f"{ours}.weight"]
    yield f"{theirs}.bias", weights[f"{ours}.bias"]


def _pad_heads(rows: NDArray[np.float32], encoder: EncoderSpec) -> NDArray[np.float32]:
    """Pads each head's rows with zeros: [n_heads * head_width, ...] to [width, ...]."""
    wide = encoder.width // encoder.n_heads
    heads = rows.reshape(encoder.n_heads, encoder.head_width, *rows.shape[1:])
    padded = np.zeros((encoder.n_heads, wide, *rows.shape[1:]), dtype=np.float32)
    padded[:, : encoder.head_width] = heads
    return padded.reshape(encoder.width, *rows.shape[1:])


def _write_table(spec: StudentSpec, weights: Weights, out: Path) -> None:
    table = weights["static.tokens"]
    if "static.expand" in weights:
        table = table @ weights["static.expand"].T
    _write_json(
        out / "config.json",
        {
            "architectures": ["XLNetModel"],
            "model_type": "xlnet",
            "vocab_size": spec.vocabulary_size,
            "d_model": spec.output_dim,
            "n_layer": 0,
            "n_head": 1,
            "d_inner": 1,
            "dropout": 0.0,
            "dtype": "float32",
        },
    )
    tensors = {
        "word_embedding.weight": np.ascontiguousarray(table, dtype=np.float32),
        "mask_emb": np.zeros((1, 1, spec.output_dim), np.float32),  # used in pre-training only
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def _write_projection(spec: StudentSpec, encoder: EncoderSpec, weights: Weights, out: Path) -> None:
    activation = "Tanh" if encoder.projection is Projection.TANH else "Identity"
    module = "activation" if activation == "Tanh" else "linear"
    _write_json(
        out / "config.json",
        {
            "in_features": encoder.width,
            "out_features": spec.output_dim,
            "bias": True,
            "activation_function": f"torch.nn.modules.{module}.{activation}",
        },
    )
    tensors = {f"linear.{part}": np.ascontiguousarray(weights[f"projection.{part}"]) for part in ("weight", "bias")}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def _write_tokenizer(path: Path, max_tokens: int | None, out: Path) -> None:
    text = path.read_text(encoding="utf-8")
    (out / "tokenizer.json").write_text(text, encoding="utf-8")
    added = [token["content"] for token in json.loads(text).get("added_tokens", ())]
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if max_tokens is not None:
        config["model_max_length"] = max_tokens
    for role, names in _SPECIAL_TOKENS.items():
        found = next((name for name in names if name in added), None)
        if found is None and role == "pad_token" and added:
            found = added[0]  # padding is masked, so any token works
        if found is not None:
            config[role] = found
    _write_json(out / "tokenizer_config.json", config)


def _write_json(path: Path, document: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
