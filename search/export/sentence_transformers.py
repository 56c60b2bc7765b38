# SPDX-License-Identifier: Apache-2.0
"""Writes a student as a folder of standard sentence-transformers modules: no remote code, no pickle, no torch.

    an encoder        Transformer (BertModel), Pooling, Dense if it has a projection
    a static path     Transformer (XLNetModel without layers, whose hidden states are the token vectors), Pooling
    both              the encoder's modules, then WordEmbeddings, Dense, Pooling, Dense
    either            Normalize, if its vectors have length 1

The module StaticEmbedding does not fit: it drops the special tokens, which are part of a student's mean.

Both paths are added as follows. WordEmbeddings reads the token ids that Transformer has left, and replaces the token
vectors by the static path's. The first Dense moves the encoder's vector to the place of a first token's, so that the
Pooling of `cls` and `mean` joins both vectors, and the second Dense adds them: its matrix is [identity, expansion].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from runtime.folder import DOCUMENT_FILE, StudentFolder
from search.export.bert import Weights, bert_config, bert_tensors
from search.export.model_card import model_card
from search.export.tokenizer_files import write_json, write_tokenizer
from spaces.errors import UserError
from spaces.student import Activation, Dense, EncoderSpec, Pooling, Projection, StudentSpec
from trainers.teacher.layout import SIMILARITIES

_MODELS = "sentence_transformers.models"  # the import path that works in all versions since 1.0
_ENCODER_ALONE = "1_Pooling"
_ENCODER_OF_TWO = "1_EncoderPooling"
"""Folder of the encoder's pooling. Programs that know 1_Pooling but not the modules after it would serve the encoder's
vectors alone; without it, and with an architecture that they do not know, they refuse."""
TWO_PATHS = "BertModelBesideStaticPath"


def write_sentence_transformers(student: StudentFolder, out: Path) -> None:
    """Writes the modules to the folder `out`. Raises ValueError first if they cannot represent the student."""
    spec, weights = student.spec, student.weights
    _require_standard(spec)
    pad_token_id = write_tokenizer(student, out)
    modules = [("Transformer", "")]
    if spec.encoder is None:
        _write_table(spec, weights, out, pad_token_id=pad_token_id)
        modules.append(("Pooling", _write_pooling(out / _ENCODER_ALONE, spec.output_dim, Pooling.MEAN)))
    else:
        modules += _write_encoder(spec, spec.encoder, weights, out, pad_token_id=pad_token_id)
    if spec.normalise:
        modules.append(("Normalize", f"{len(modules)}_Normalize"))
        (out / modules[-1][1]).mkdir()
    write_json(
        out / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"{_MODELS}.{name}"}
            for i, (name, path) in enumerate(modules)
        ],
    )
    write_json(out / "sentence_bert_config.json", {"max_seq_length": student.max_tokens, "do_lower_case": False})
    write_json(out / "config_sentence_transformers.json", {"similarity_fn_name": _similarity(student)})
    card = model_card(student, library="sentence-transformers", tags=("sentence-transformers",), usage=_usage(spec))
    (out / "README.md").write_text(card, encoding="utf-8")


def _usage(spec: StudentSpec) -> str:
    """How to load it, and what cannot."""
    other = "text-embeddings-inference cannot serve it."
    if spec.encoder is not None and spec.static is not None:
        other = f"They need sentence-transformers 5.4 or later. {other}"
    elif spec.encoder is not None and spec.encoder.activation is not Activation.GELU_TANH:
        other = "text-embeddings-inference serves it as well: `text-embeddings-router --model-id FOLDER`."
    return f"""```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("FOLDER").encode(["a sentence", "another one"])
```

Its modules are sentence-transformers' own; no remote code is needed. {other}
"""


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
    if spec.encoder is not None and not isinstance(spec.encoder.feed_forward, Dense):
        raise UserError(
            "sentence-transformers' BertModel has no Switch layers, and this student has them; "
            "export it as onnx or folder instead"
        )


def _write_encoder(
    spec: StudentSpec, encoder: EncoderSpec, weights: Weights, out: Path, *, pad_token_id: int
) -> list[tuple[str, str]]:
    """The modules after the first, (name, folder), with a static path if the student has one."""
    config = bert_config(spec, encoder, pad_token_id=pad_token_id)
    if spec.static is not None:
        config["architectures"] = [TWO_PATHS]
    write_json(out / "config.json", config)
    _save(out, dict(bert_tensors(encoder, weights)))
    matrix = weights.get("projection.weight", np.eye(encoder.width, dtype=np.float32))
    bias = weights.get("projection.bias")
    is_tanh = encoder.projection is Projection.TANH
    if spec.static is None:
        modules = [("Pooling", _write_pooling(out / _ENCODER_ALONE, encoder.width, encoder.pooling))]
        if encoder.projection is not None:
            modules.append(("Dense", _write_dense(out / "2_Dense", matrix, bias, is_tanh=is_tanh)))
        return modules
    table = weights["static.tokens"]
    first_token = "cls_token_embeddings"
    joined = np.concatenate([np.eye(spec.output_dim, dtype=np.float32), _expansion(spec, weights)], axis=1)
    return [
        ("Pooling", _write_pooling(out / _ENCODER_OF_TWO, encoder.width, encoder.pooling)),
        ("WordEmbeddings", _write_word_embeddings(out / "2_StaticPath", table)),
        ("Dense", _write_dense(out / "3_Encoder", matrix, bias, is_tanh=is_tanh, output=first_token)),
        ("Pooling", _write_pooling(out / "4_Both", table.shape[1], Pooling.CLS, Pooling.MEAN)),
        ("Dense", _write_dense(out / "5_Sum", joined, None)),
    ]


def _write_pooling(out: Path, width: int, *modes: Pooling) -> str:
    config = {
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": Pooling.CLS in modes,
        "pooling_mode_mean_tokens": Pooling.MEAN in modes,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    write_json(out / "config.json", config)
    return out.name


def _write_dense(
    out: Path,
    matrix: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    *,
    is_tanh: bool = False,
    output: str | None = None,
) -> str:
    config = {
        "in_features": matrix.shape[1],
        "out_features": matrix.shape[0],
        "bias": bias is not None,
        "activation_function": f"torch.nn.modules.{'activation.Tanh' if is_tanh else 'linear.Identity'}",
    }
    if output is not None:
        config |= {"module_input_name": "sentence_embedding", "module_output_name": output}
    write_json(out / "config.json", config)
    _save(out, {"linear.weight": matrix} | ({} if bias is None else {"linear.bias": bias}))
    return out.name


def _write_word_embeddings(out: Path, table: NDArray[np.float32]) -> str:
    config = {
        "tokenizer_class": f"{_MODELS}.tokenizer.WhitespaceTokenizer",  # not used: only a first module splits text
        "update_embeddings": False,
        "max_seq_length": 1_000_000,
    }
    write_json(out / "wordembedding_config.json", config)
    unused = {"vocab": [], "stop_words": [], "do_lower_case": False}
    write_json(out / "whitespacetokenizer_config.json", unused)
    _save(out, {"emb_layer.weight": table})
    return out.name


def _write_table(spec: StudentSpec, weights: Weights, out: Path, *, pad_token_id: int) -> None:
    write_json(
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
            "pad_token_id": pad_token_id,
            "dtype": "float32",
            "torch_dtype": "float32",
        },
    )
    table = weights["static.tokens"]
    tensors = {
        "word_embedding.weight": table @ weights["static.expand"].T if "static.expand" in weights else table,
        "mask_emb": np.zeros((1, 1, spec.output_dim), np.float32),  # used in pre-training only
    }
    _save(out, tensors)


def _expansion(spec: StudentSpec, weights: Weights) -> NDArray[np.float32]:
    """[output_dim, columns of the static table]; the identity for a table that is not factorised."""
    return weights.get("static.expand", np.eye(spec.output_dim, dtype=np.float32))


def _save(folder: Path, tensors: Weights) -> None:
    arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in tensors.items()}
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
