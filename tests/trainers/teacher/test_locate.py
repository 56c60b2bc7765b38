# SPDX-License-Identifier: Apache-2.0
"""Where a teacher's files may lie: in shards, in the hub's cache; folders of other kinds are named as what they are."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub.utils import filter_repo_objects
from safetensors.numpy import load_file, save_file

from runtime.folder import expected_tensors, write_folder
from spaces.errors import UserError
from spaces.study.spec import TeacherSpec
from tests.runtime.tiny_student import SPEC
from tests.trainers.model_folders import (
    random_model,
    sentences,
    tokenizer_json,
    write_sentence_transformers,
    write_transformers,
)
from trainers.modules.embed import embed
from trainers.teacher.load import Teacher, load_teacher
from trainers.text.hub import _MODEL_FILES, _OTHER_RUNTIMES
from trainers.text.tokenised_text import tokenise

COMMIT = "0123456789012345678901234567890123456789"
INDEX = "model.safetensors.index.json"


def teacher_in(folder: Path, *, sha256: str | None = None) -> Teacher:
    return load_teacher(TeacherSpec(source=str(folder), sha256=sha256))


def sharded(folder: Path) -> Path:
    """A tiny BERT whose weights transformers has written to several files."""
    model = random_model("bert")
    write_transformers(folder, model)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    return folder


def test_weights_in_several_files_are_those_in_one(tmp_path: Path) -> None:
    one, several = (
        teacher_in(write_transformers(tmp_path / "one", random_model("bert"))),
        teacher_in(sharded(tmp_path / "s")),
    )
    assert all(np.array_equal(one.weights[name], several.weights[name]) for name in one.weights)
    assert one.weights.keys() == several.weights.keys()
    printed = subprocess.check_output(f"sha256sum {INDEX} model-*.safetensors", shell=True, cwd=tmp_path / "s")
    right = hashlib.sha256(printed).hexdigest()
    assert teacher_in(tmp_path / "s", sha256=right).weights_sha256 == right
    with pytest.raises(UserError, match=r"index.json: its SHA-256 \(of what `sha256sum .*must be the study's"):
        teacher_in(tmp_path / "s", sha256=one.weights_sha256)


def test_every_file_of_several_counts_in_the_digest(tmp_path: Path) -> None:
    before = teacher_in(sharded(tmp_path)).weights_sha256
    last = sorted(tmp_path.glob("model-*.safetensors"))[-1]
    save_file({name: array + 1 for name, array in load_file(last).items()}, last)
    assert teacher_in(tmp_path).weights_sha256 != before


def change_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file is missing": (
        lambda folder: sorted(folder.glob("model-*"))[1].unlink(),
        r"1 of the \d+ weight files that model.safetensors.index.json lists are missing: model-00002-of-",
    ),
    "a file is damaged": (
        lambda folder: sorted(folder.glob("model-*"))[1].write_bytes(b"\0" * 99),
        r"model-00002-of-\d+.safetensors is damaged",
    ),
    "the index is no object": (lambda folder: (folder / INDEX).write_text("[]"), "must hold a JSON object"),
    "the index is no JSON": (lambda folder: (folder / INDEX).write_text("{"), "index.json is not JSON"),
    "the index lists nothing": (lambda folder: (folder / INDEX).write_text("{}"), "weight_map must be"),
    "the list is none": (
        lambda f: change_index(f, lambda i: i.update(weight_map=["a"])),
        "weight_map must be an object",
    ),
    "a name is none": (lambda f: change_index(f, lambda i: i["weight_map"].update(a=3)), "weight_map must be"),
    "a file elsewhere": (
        lambda f: change_index(f, lambda i: i["weight_map"].update(a="../a.safetensors")),
        "weight_map must name safetensors files of its folder, got ../a.safetensors",
    ),
    "a pickle": (
        lambda f: change_index(f, lambda i: i["weight_map"].update(a="pytorch_model.bin")),
        "weight_map must name safetensors files",
    ),
    "a tensor is missing": (
        lambda folder: save_file({"other": np.zeros(1, np.float32)}, sorted(folder.glob("model-*"))[0]),
        "the tensor .* is missing from its weights",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_wrong_with_several_files_is_named(name: str, tmp_path: Path) -> None:
    damage, message = DAMAGE[name]
    damage(sharded(tmp_path))
    with pytest.raises(UserError, match=message):
        teacher_in(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", "pickles, .* never read: found pytorch_model.bin"),
        ("model.Q4.gguf", "weights must be a model.safetensors, found model.Q4.gguf; .*save_pretrained"),
        ("flax_model.msgpack", "found flax_model.msgpack"),
        ("model.fp16.safetensors", "found model.fp16.safetensors"),
    ],
)
def test_weights_in_other_formats_are_named(name: str, message: str, tmp_path: Path) -> None:
    write_transformers(tmp_path, random_model("bert"))
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    with pytest.raises(UserError, match=message):
        teacher_in(tmp_path)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    write_transformers(tmp_path, random_model("bert"))
    tensors = load_file(tmp_path / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    save_file(tensors | {name: tensors[name].astype(np.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"output.dense.weight must be of F64, F32, F16, BF16, got I8; .*float32"):
        teacher_in(tmp_path)


def test_the_hub_is_asked_for_all_weight_files_of_a_model_and_for_no_others() -> None:
    wanted = [
        *("config.json", INDEX, "model-00001-of-00002.safetensors", "0_Transformer/model-00002-of-00002.safetensors"),
        *("model.safetensors", "2_Dense/model.safetensors", "sentencepiece.bpe.model", "vocab.txt"),
    ]
    others = ["pytorch_model.bin", "model.fp16.safetensors", "onnx/model.onnx", "model.gguf", "code.py"]
    files = list(filter_repo_objects([*wanted, *others], allow_patterns=_MODEL_FILES, ignore_patterns=_OTHER_RUNTIMES))
    assert files == wanted


def cached_model(root: Path, *, refs: bool = True) -> Path:
    """A model as the hub's cache holds it."""
    repository = root / "models--org--tiny"
    write_sentence_transformers(repository / "snapshots" / COMMIT, random_model("bert"))
    if refs:
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
    return repository


@pytest.mark.parametrize("refs", [True, False])
def test_a_model_s_folder_in_the_hub_s_cache_is_its_snapshot(refs: bool, tmp_path: Path) -> None:
    teacher = teacher_in(cached_model(tmp_path, refs=refs))
    assert (teacher.name, teacher.spec.output_dim) == ("tiny", 32)
    assert teacher_in(tmp_path / "models--org--tiny" / "snapshots" / COMMIT).name == "tiny"


def test_of_several_snapshots_it_is_the_one_of_main(tmp_path: Path) -> None:
    repository = cached_model(tmp_path)
    other = repository / "snapshots" / ("f" * 40)
    write_sentence_transformers(other, random_model("bert"), normalise=False)
    assert teacher_in(repository).spec.normalise
    (repository / "refs" / "main").write_text("f" * 40 + "\n")
    assert not teacher_in(repository).spec.normalise
    (repository / "refs" / "main").unlink()
    with pytest.raises(UserError, match=rf"with 2 snapshots, and none of them is main; give one: .*{COMMIT}, .*fff"):
        teacher_in(repository)


def write(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def write_student(folder: Path) -> None:
    weights = {name: np.zeros(shape, np.float32) for name, shape in expected_tensors(SPEC).items()}
    write_folder(folder / "student", SPEC, weights=weights, tokenizer_json=tokenizer_json())
    shutil.copytree(folder / "student", folder, dirs_exist_ok=True)


OTHER_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "the cache": (cached_model, r"is the hub's cache, not a model; give one of those in it: hub:org/tiny"),
    "the cache's parent": (lambda folder: cached_model(folder / "hub"), "is the hub's cache.*: hub:org/tiny"),
    "a cached model without files": (
        lambda folder: (folder / "snapshots").mkdir(),
        "in the hub's cache without a complete download; download",
    ),
    "a cached model, half downloaded": (
        lambda folder: [
            (folder / "snapshots" / ("a" * 40)).mkdir(parents=True),
            (folder / "refs").mkdir(),
            (folder / "refs" / "main").write_text("b" * 40),
        ],
        "without a complete download",
    ),
    "an adapter": (
        lambda folder: write(
            folder / "adapter_config.json", {"base_model_name_or_path": "org/base", "peft_type": "LORA"}
        ),
        r"is a PEFT adapter of org/base, not a whole model; merge them, .*merge_and_unload\(\)",
    ),
    "an adapter without a base": (
        lambda folder: write(folder / "adapter_config.json", {}),
        "is a PEFT adapter of its base model",
    ),
    "an adapter beside its base": (
        lambda folder: [
            write_transformers(folder, random_model("bert")),
            write(folder / "adapter_config.json", {"base_model_name_or_path": "org/base"}),
        ],
        "is a PEFT adapter of org/base",
    ),
    "an adapter in a module": (
        lambda folder: [
            write_sentence_transformers(folder, random_model("bert")),
            write(
                folder / "modules.json",
                [
                    {"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
                    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                ],
            ),
            write(folder / "0_Transformer" / "adapter_config.json", {"base_model_name_or_path": "org/base"}),
        ],
        "0_Transformer is a PEFT adapter of org/base",
    ),
    "a student": (write_student, "is a student, and a teacher must be a model of transformers"),
    "an empty folder": (lambda folder: None, "config.json is missing; give a complete folder"),
}


@pytest.mark.parametrize("name", OTHER_FOLDERS)
def test_a_folder_that_is_no_model_is_named(name: str, tmp_path: Path) -> None:
    make, message = OTHER_FOLDERS[name]
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        teacher_in(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    write_transformers(tmp_path, random_model("bert"))
    with pytest.raises(UserError, match=r"must be a folder, got the file .*model.safetensors; give the folder"):
        teacher_in(tmp_path / "model.safetensors")


def sentencepiece_alone(folder: Path) -> Path:
    """An XLM-RoBERTa whose tokenizer is a sentencepiece.bpe.model."""
    sentencepiece = pytest.importorskip("sentencepiece")
    write_transformers(folder, random_model("xlm-roberta", vocab_size=120, pad_token_id=1))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with (folder / "sentencepiece.bpe.model").open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences(400, seed=1)), model_writer=model, vocab_size=40, minloglevel=2
        )
    return folder


def test_a_sentencepiece_model_alone_is_read_as_sentence_transformers_reads_it(tmp_path: Path) -> None:
    folder = sentencepiece_alone(tmp_path)
    from sentence_transformers import SentenceTransformer

    texts = [*sentences(20, seed=2), "Déjà vu", "東京 of stone", "", "a <mask> b"]
    teacher = teacher_in(folder)
    ours = embed(teacher.student(), tokenise(texts, tokenizer_json=teacher.tokenizer_json, max_tokens=18))
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = 18
    np.testing.assert_allclose(ours, model.encode(texts), atol=1e-5)


def test_a_damaged_sentencepiece_model_is_named(tmp_path: Path) -> None:
    folder = sentencepiece_alone(tmp_path)
    (folder / "sentencepiece.bpe.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"sentencepiece.bpe.model is damaged: .*; download the teacher again"):
        teacher_in(folder)


def test_a_sentencepiece_model_says_what_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_transformers(tmp_path, random_model("xlm-roberta"))
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"\n")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"read with sentencepiece, not installed here; pip install sentencepiece, or"):
        teacher_in(tmp_path)
