# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from runtime.folder import expected_tensors, student_digest, write_folder
from runtime.loading import load_exact as load
from runtime.tokenizer import SentenceTokenizer
from search.export.formats import ExportFormat, export, export_model
from search.storage.store import Store
from spaces.errors import UserError
from spaces.student import (
    Activation,
    Dense,
    EncoderSpec,
    Pooling,
    Projection,
    StaticSpec,
    StudentSpec,
    Switch,
)

WORDS = [*"abcdefghijklmnopqrstuvwxyz", "cat", "dog", "runs", "sleeps", "##s", "the", "!", "."]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
SENTENCES = [
    "the cat sleeps.",
    "dog",
    "the dog runs the dog runs the dog runs the dog runs!",
    "",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z a b c d e f g h",
    "ünknown words",
]


def encoder(**changes: object) -> EncoderSpec:
    fields: dict[str, object] = {
        "n_layers": 2,
        "width": 32,
        "n_heads": 4,
        "head_width": 8,
        "feed_forward": Dense(units=48),
        "max_tokens": 24,
    }
    return EncoderSpec(**(fields | changes))  # type: ignore[arg-type]


def student(
    encoder: EncoderSpec | None = None,
    *,
    static: StaticSpec | None = None,
    output_dim: int = 32,
    normalise: bool = True,
) -> StudentSpec:
    return StudentSpec(
        vocabulary_size=len(VOCABULARY), output_dim=output_dim, encoder=encoder, static=static, normalise=normalise
    )


ENCODERS = {
    "dense": student(encoder()),
    "narrow heads": student(encoder(head_width=5)),
    "fewer heads": student(encoder(n_heads=2, head_width=8)),
    "factorised": student(encoder(embedding_dim=12)),
    "first token": student(encoder(pooling=Pooling.CLS)),
    "projected": student(encoder(projection=Projection.LINEAR), output_dim=20),
    "tanh": student(encoder(projection=Projection.TANH), output_dim=20),
    "not normalised": student(encoder(), normalise=False),
    "relu": student(encoder(activation=Activation.RELU)),
    "gelu tanh": student(encoder(activation=Activation.GELU_TANH, layer_norm_epsilon=1e-5)),
    "sparse": student(encoder(n_heads=2, head_width=16, sparsity=0.5)),
}
STATICS = {
    "static": student(static=StaticSpec()),
    "static factorised": student(static=StaticSpec(embedding_dim=6)),
    "static not normalised": student(static=StaticSpec(), normalise=False),
}
TWO_PATHS = {
    "both": student(encoder(), static=StaticSpec()),
    "both factorised": student(encoder(embedding_dim=12), static=StaticSpec(embedding_dim=6)),
    "both projected": student(encoder(projection=Projection.LINEAR), static=StaticSpec(), output_dim=20),
    "both tanh": student(encoder(projection=Projection.TANH), static=StaticSpec(embedding_dim=6), output_dim=20),
    "both first token": student(encoder(pooling=Pooling.CLS), static=StaticSpec()),
    "both not normalised": student(encoder(head_width=5), static=StaticSpec(), normalise=False),
}
STANDARD = ENCODERS | STATICS | TWO_PATHS
OTHERS = {
    "switch": student(encoder(feed_forward=Switch(n_experts=3, units=24))),
}


def tokenizer_json() -> str:
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(VOCABULARY[:5])
    return tokenizer.to_str()


MEASURED = {
    "study": "own",
    "trial": "trial-0007",
    "teacher": {"name": "MiniLM", "weights_sha256": "ab" * 32, "sources": ["hub:org/MiniLM", "package:gt-minilm"]},
    "corpus": {"sources": ["reviews.parquet", "installed-docs"], "key": "cd" * 16},
    "training": {"n_tokens": 1_200_000},
    "measurements": {
        "latency_ms": 0.415,
        "latency_interval_ms": [0.41, 0.42],
        "speedup": 27.0,
        "profile": {"runtime": "engine", "batch_size": 1, "n_tokens": 32, "n_threads": 1},
        "machine": "a processor",
        "fidelity": {
            "cosine": 0.95617,
            "cosine_p5": 0.9012,
            "cosine_centred": 0.9521,
            "spearman": 0.9231,
            "overlap_at_1": 0.7,
            "overlap_at_10": 0.685,
            "constant_baseline": 0.285,
        },
    },
}


def student_folder(path: Path, spec: StudentSpec, *, seed: int = 0, document: dict[str, object] | None = None) -> Path:
    """A folder of random weights, large enough that attention, experts and activations matter."""
    generator = np.random.default_rng(seed)
    weights = {}
    for name, shape in expected_tensors(spec).items():
        scale = 1.0 if "tokens" in name or "positions" in name else 0.4
        weights[name] = generator.normal(size=shape, scale=scale).astype(np.float32)
        if name.endswith("norm.weight"):
            weights[name] = 1.0 + 0.2 * weights[name]
    if spec.encoder is not None and spec.encoder.sparsity:
        for name in weights:
            if name.startswith("layers") and name.endswith("weight") and weights[name].ndim == 2:
                weights[name][:16, :4] = 0.0
    return write_folder(path, spec, weights=weights, tokenizer_json=tokenizer_json(), document=document)


def assert_same(vectors: np.ndarray, expected: np.ndarray) -> None:
    assert vectors.shape == expected.shape
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    assert np.all((vectors * expected).sum(axis=1) / norms >= 0.9999)
    np.testing.assert_allclose(vectors, expected, rtol=1e-3, atol=1e-4)


def sentence_transformers_vectors(folder: Path) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(SENTENCES, batch_size=4)


def onnx_vectors(model: Path, tokenizer: Path) -> np.ndarray:
    import onnxruntime

    encodings = Tokenizer.from_file(str(tokenizer)).encode_batch(SENTENCES)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (vectors,) = session.run(
        ["sentence_embedding"],
        {
            "input_ids": np.array([encoding.ids for encoding in encodings], dtype=np.int64),
            "attention_mask": np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64),
        },
    )
    return vectors


@pytest.mark.slow  # importing sentence-transformers takes seconds
@pytest.mark.parametrize("spec", STANDARD.values(), ids=STANDARD.keys())
def test_sentence_transformers_gives_the_same_vectors(spec: StudentSpec, tmp_path: Path) -> None:
    folder = student_folder(tmp_path / "student", spec)
    out = export(folder, tmp_path / "out", format="sentence-transformers")
    assert_same(sentence_transformers_vectors(out), load(folder).encode(SENTENCES))


def name_similarity(folder: Path, name: object) -> None:
    document = json.loads((folder / "student.json").read_text())
    (folder / "student.json").write_text(json.dumps(document | {"teacher": {"name": "t", "similarity": name}}))


@pytest.mark.slow  # as above
@pytest.mark.parametrize("name", [None, "cosine", "dot", "euclidean", "manhattan"])
def test_sentence_transformers_compares_as_with_the_teacher(name: str | None, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = student_folder(tmp_path / "student", STANDARD["dense"])
    if name is not None:
        name_similarity(folder, name)
    out = export(folder, tmp_path / "out", format="sentence-transformers")
    assert SentenceTransformer(str(out), device="cpu").similarity_fn_name == (name or "cosine")


@pytest.mark.parametrize("name", ["maxsim", 3, ["dot"]])
def test_an_unknown_similarity_is_refused(name: object, tmp_path: Path) -> None:
    folder = student_folder(tmp_path / "student", STANDARD["dense"])
    name_similarity(folder, name)
    with pytest.raises(UserError, match=r"student.json: the teacher's similarity must be one of cosine, dot, euclid"):
        export(folder, tmp_path / "out", format="sentence-transformers")


@pytest.mark.parametrize("spec", (STANDARD | OTHERS).values(), ids=(STANDARD | OTHERS).keys())
def test_onnx_gives_the_same_vectors(spec: StudentSpec, tmp_path: Path) -> None:
    folder = student_folder(tmp_path / "student", spec)
    out = export(folder, tmp_path / "out", format="onnx")
    vectors = onnx_vectors(out / "onnx" / "model.onnx", out / "tokenizer.json")
    assert_same(vectors, load(folder).encode(SENTENCES))
    assert all(path.stat().st_mode & 0o044 for path in out.rglob("*"))  # others may read it


def test_onnx_takes_any_batch_and_length_alone(tmp_path: Path) -> None:
    import onnxruntime

    spec = ENCODERS["dense"]
    folder = student_folder(tmp_path / "student", spec)
    model = export(folder, tmp_path / "student.onnx", format="onnx")
    assert model.is_file()
    session = onnxruntime.InferenceSession(model)
    for batch, n_tokens in ((1, 1), (3, 7), (2, 24)):
        ids = np.random.default_rng(1).integers(5, len(VOCABULARY), size=(batch, n_tokens))
        (vectors,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        assert_same(vectors, load(folder).forward(ids))


def test_a_switch_layer_runs_each_token_through_its_own_expert(tmp_path: Path) -> None:
    folder = student_folder(tmp_path / "student", student(encoder(feed_forward=Switch(n_experts=9, units=8))))
    out = export(folder, tmp_path / "out", format="onnx")  # with 9 experts and few tokens some experts get none
    vectors = onnx_vectors(out / "onnx" / "model.onnx", out / "tokenizer.json")
    assert_same(vectors, load(folder).encode(SENTENCES))


def test_what_sentence_transformers_cannot_hold_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = student_folder(tmp_path / "student", OTHERS["switch"])
    with pytest.raises(ValueError, match=r"no Switch layers.*onnx"):
        export(folder, tmp_path / "out", format="sentence-transformers")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student"]


def test_a_folder_is_copied_whole(tmp_path: Path) -> None:
    folder = student_folder(tmp_path / "student", TWO_PATHS["both factorised"])
    out = export_model(Store(tmp_path / "no-store"), folder, tmp_path / "new" / "out", format=ExportFormat.FOLDER)
    np.testing.assert_array_equal(load(out).encode(SENTENCES), load(folder).encode(SENTENCES))
    assert (out / "student.json").read_bytes() == (folder / "student.json").read_bytes()


@pytest.mark.parametrize("format", list(ExportFormat))
def test_nothing_is_overwritten(format: ExportFormat, tmp_path: Path) -> None:
    folder = student_folder(tmp_path / "student", ENCODERS["dense"])
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("keep")
    with pytest.raises(ValueError, match="nothing is overwritten"):
        export(folder, out, format=format)
    assert [path.name for path in out.iterdir()] == ["precious.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    folder = student_folder(tmp_path / "student", ENCODERS["dense"])
    (tmp_path / "out").mkdir()
    assert (export(folder, tmp_path / "out", format="folder") / "student.json").is_file()


def test_an_unknown_format_names_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folder, sentence-transformers, onnx, got 'pickle'"):
        export(tmp_path, tmp_path / "out", format="pickle")


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = student_folder(tmp_path / "student", STATICS["static"])
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"pip install 'understudy\[export\]'"):
        export(folder, tmp_path / "out", format="onnx")


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    folder = student_folder(tmp_path / "student", ENCODERS["dense"])
    document = json.loads((folder / "student.json").read_text())
    document["spec"]["encoder"]["n_layers"] = 3
    (folder / "student.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="missing"):
        export(folder, tmp_path / "out", format="folder")


# Fields without a default in `BertConfig`, `ModelConfig`, `PoolConfig` and `STConfig` of text-embeddings-inference
# (backends/candle/src/models/bert.rs, router/src/lib.rs); its `HiddenAct` knows gelu and relu.
TEI_CONFIG = {
    **dict.fromkeys(("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"), int),
    **dict.fromkeys(("intermediate_size", "max_position_embeddings", "type_vocab_size", "pad_token_id"), int),
    **dict.fromkeys(("hidden_dropout_prob", "initializer_range", "layer_norm_eps"), float),
    **dict.fromkeys(("hidden_act", "model_type"), str),
    "architectures": list,
}
TEI_POOLING = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")


@pytest.mark.parametrize("name", ["dense", "narrow heads", "factorised", "first token", "projected", "tanh", "relu"])
def test_an_encoder_is_complete_for_text_embeddings_inference(name: str, tmp_path: Path) -> None:
    folder = student_folder(tmp_path / "student", ENCODERS[name])
    out = export(folder, tmp_path / "out", format="sentence-transformers")
    config = json.loads((out / "config.json").read_text())
    assert {key: type(config.get(key)) for key in TEI_CONFIG} == TEI_CONFIG
    assert config["position_embedding_type"] == "absolute"
    assert config["hidden_act"] in ("gelu", "relu")
    assert config["pad_token_id"] == VOCABULARY.index("[PAD]")
    pooling = json.loads((out / "1_Pooling" / "config.json").read_text())
    assert all(isinstance(pooling[f"pooling_mode_{mode}"], bool) for mode in TEI_POOLING)
    assert json.loads((out / "sentence_bert_config.json").read_text())["max_seq_length"] == 24
    activations = [json.loads(path.read_text())["activation_function"] for path in out.glob("2_Dense/config.json")]
    assert set(activations) <= {"torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"}


@pytest.mark.parametrize("spec", TWO_PATHS.values(), ids=TWO_PATHS.keys())
def test_nothing_serves_the_encoder_of_two_paths_alone(spec: StudentSpec, tmp_path: Path) -> None:
    """text-embeddings-inference needs 1_Pooling, vLLM and llama.cpp an architecture that they know."""
    out = export(student_folder(tmp_path / "student", spec), tmp_path / "out", format="sentence-transformers")
    assert not (out / "1_Pooling").exists()
    assert json.loads((out / "config.json").read_text())["architectures"] == ["BertModelBesideStaticPath"]


@pytest.mark.parametrize("format", ["sentence-transformers", "onnx"])
@pytest.mark.parametrize("name", ["both", "static", "dense"])
def test_the_tokenizer_files_say_what_fastembed_and_transformers_read(format: str, name: str, tmp_path: Path) -> None:
    spec = STANDARD[name]
    out = export(student_folder(tmp_path / "student", spec), tmp_path / "out", format=format)
    config = json.loads((out / "tokenizer_config.json").read_text())
    special = json.loads((out / "special_tokens_map.json").read_text())
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    assert special == roles | {"mask_token": "[MASK]"}
    assert special.items() <= config.items()
    assert 0 < config["model_max_length"] <= sys.maxsize
    assert config["model_max_length"] == (spec.max_tokens or 2**31 - 1)
    assert json.loads((out / "config.json").read_text())["pad_token_id"] == 0
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    tokenizer.enable_truncation(config["model_max_length"])
    ids = [tokenizer.encode(sentence).ids for sentence in SENTENCES]
    expected = SentenceTokenizer(tokenizer_json(), max_tokens=spec.max_tokens).encode(SENTENCES)
    assert ids == [each.tolist() for each in expected]


@pytest.mark.parametrize(
    ("names", "pad"),
    [
        (("<s>", "<pad>", "</s>", "<unk>"), "<pad>"),  # RoBERTa's, whose padding is not 0
        (("<unk>", "<start>", "<end>"), "<unk>"),  # none has the name of padding, which is masked
    ],
)
def test_padding_is_the_tokenizer_s_own(names: tuple[str, ...], pad: str, tmp_path: Path) -> None:
    spec = TWO_PATHS["both"]
    folder = student_folder(tmp_path / "student", spec)
    vocabulary = {word: i for i, word in enumerate([*names, *WORDS, *"0123"][: spec.vocabulary_size])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    first, last = (vocabulary[name] for name in (names[0], names[-1]))
    made.post_processor = processors.BertProcessing((names[-1], last), (names[0], first))
    made.add_special_tokens(list(names))
    made.save(str(folder / "tokenizer.json"))
    for format in ("sentence-transformers", "onnx"):
        out = export(folder, tmp_path / format, format=format)
        assert json.loads((out / "config.json").read_text())["pad_token_id"] == vocabulary[pad]
        assert json.loads((out / "special_tokens_map.json").read_text())["pad_token"] == pad
    padding = Tokenizer.from_file(str(out / "tokenizer.json")).padding
    assert (padding["pad_id"], padding["pad_token"]) == (vocabulary[pad], pad)
    assert_same(onnx_vectors(out / "onnx" / "model.onnx", out / "tokenizer.json"), load(folder).encode(SENTENCES))


def test_a_tokenizer_without_special_tokens_is_refused_where_batches_are_padded(tmp_path: Path) -> None:
    folder = student_folder(tmp_path / "student", STATICS["static"])
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    plain.save(str(folder / "tokenizer.json"))
    for format in ("sentence-transformers", "onnx"):
        with pytest.raises(ValueError, match=r"pads batches with a special token.*folder"):
            export(folder, tmp_path / "out", format=format)
    assert (export(folder, tmp_path / "out", format="folder") / "student.json").is_file()


@pytest.mark.parametrize("format", ["sentence-transformers", "onnx"])
def test_the_model_card_has_what_was_measured(format: str, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    folder = student_folder(tmp_path / "student", TWO_PATHS["both"], document=MEASURED)
    out = export(folder, tmp_path / "out", format=format)
    card = ModelCard.load(out / "README.md")
    assert card.data.pipeline_tag == "sentence-similarity"
    assert card.data.base_model == ["org/MiniLM"]
    measured = {each.metric_type: each.metric_value for each in card.data.eval_results}
    fidelity = dict(MEASURED["measurements"]["fidelity"])
    assert measured == pytest.approx(
        {name: fidelity[name] for name in fidelity if name != "constant_baseline"}, abs=1e-4
    )
    assert set(fidelity) == set(card.data.metrics)
    for said in (
        "0.415 ms (95% interval of the median 0.410 to 0.420 ms), 27 times as fast",
        "engine, batch 1, 32 tokens, 1 thread on a processor",
        "| teacher | MiniLM |",
        f"| SHA-256 of the teacher's weights | {'ab' * 32} |",
        "| trained on | reviews.parquet, installed-docs |",
        f"| digest of the prepared text | {'cd' * 16} |",
        "| tokens of its last training | 1,200,000 |",
        "| mean cosine with the teacher | 0.9562 |",
        "| cosine of a constant vector | 0.2850 |",
        student_digest(folder),
    ):
        assert said in card.text


@pytest.mark.parametrize("document", [None, {"teacher": "a name", "measurements": {"fidelity": []}, "study": "a|b: c"}])
def test_a_card_leaves_out_what_a_folder_does_not_say(document: dict[str, object] | None, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    folder = student_folder(tmp_path / "student", STATICS["static"], document=document)
    card = ModelCard.load(export(folder, tmp_path / "out", format="sentence-transformers") / "README.md")
    assert card.data.library_name == "sentence-transformers"
    assert card.data.base_model is None and card.data.eval_results is None
    assert "Latency" not in card.text and "held-out" not in card.text
