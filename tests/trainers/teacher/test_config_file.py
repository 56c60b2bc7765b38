# SPDX-License-Identifier: Apache-2.0
"""A wrong value in any of a teacher's files is one message that names file, key and value; nothing else is raised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from spaces.errors import UserError
from spaces.study.spec import TeacherSpec
from tests.runtime.test_folder_fuzz import HARMLESS, WEIGHTS
from tests.trainers.model_folders import random_model, write_sentence_transformers
from trainers.teacher.config_file import ConfigFile
from trainers.teacher.load import load_teacher

WRONG = {  # file: what each key must be; every other value is refused
    "config.json": {
        **dict.fromkeys(
            (
                *("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"),
                "max_position_embeddings",
            ),
            "required integer",
        ),
        **dict.fromkeys(("is_decoder", "add_cross_attention"), "boolean"),
        **dict.fromkeys(("hidden_act", "position_embedding_type"), "text"),
        "model_type": "required text",
        "layer_norm_eps": "number",
        "pad_token_id": "integer",
        "quantization_config": "object",
    },
    "sentence_bert_config.json": {
        "max_seq_length": "integer",
        "do_lower_case": "boolean",
        **dict.fromkeys(("transformer_task", "tokenizer_name_or_path"), "text"),
        **dict.fromkeys(("tokenizer_args", "model_args", "processing_kwargs", "modality_config"), "object"),
    },
    "1_Pooling/config.json": {"pooling_mode": "text", "pooling_mode_cls_token": "boolean"},
    "2_Dense/config.json": {
        "bias": "boolean",
        "out_features": "integer",
        "use_residual": "boolean",
        "activation_function": "text",
    },
    "config_sentence_transformers.json": {
        "prompts": "object",
        "truncate_dim": "integer",
        **dict.fromkeys(("default_prompt_name", "similarity_fn_name", "model_type"), "text"),
    },
    "tokenizer_config.json": {
        **dict.fromkeys(("do_lower_case", "strip_accents", "add_prefix_space", "tokenize_chinese_chars"), "boolean"),
        "model_max_length": "number",
        **dict.fromkeys(("tokenizer_class", "cls_token", "padding_side", "truncation_side"), "text"),
        "model_input_names": "list",
        "added_tokens_decoder": "object",
    },
}
VALUES = {
    "boolean": [True],
    "integer": [-1, 2**70],
    "number": [1.5, float("nan"), float("inf")],
    "text": ["12"],
    "list": [[1]],
    "object": [{"a": 1}],
}

UNREAD = {"not a number"}  # the last tensor of the file is the pooler's, which no teacher needs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_sentence_transformers(
        tmp_path_factory.mktemp("teacher"), random_model("bert"), dense=torch.nn.Linear(32, 24)
    )
    (folder / "config_sentence_transformers.json").write_text("{}")
    return folder


def refusal(folder: Path) -> str | None:
    """The message with which a folder is refused; any other error is raised."""
    try:
        load_teacher(TeacherSpec(source=str(folder)))
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("file", WRONG)
def test_a_value_of_a_wrong_type_is_named(file: str, folder: Path) -> None:
    path = folder / file
    whole = path.read_text()
    try:
        for key, kind in WRONG[file].items():
            for other, values in VALUES.items():
                if other in kind or (other == "integer" and kind == "number"):
                    continue
                for value in values:
                    path.write_text(json.dumps(json.loads(whole) | {key: value}))
                    said = refusal(folder)
                    assert said is not None and str(path) in said and key in said, (key, value, said)
                    assert len(said) < 600
            document = {name: value for name, value in json.loads(whole).items() if name != key}
            for change in ({}, {key: None}):
                path.write_text(json.dumps(document | change))
                said = refusal(folder)
                if "required" in kind:
                    assert said is not None and f"{path}: {key}" in said, said
                else:
                    assert said is None or key in said, said
    finally:
        path.write_text(whole)


@pytest.mark.parametrize("file", [*WRONG, "modules.json"])
@pytest.mark.parametrize("text", ["", "{", "3", "null", '"a"', "[1]", "NaN", "\ufeff{}", "[" * 100_000, "\0"])
def test_a_file_that_is_no_object_is_named(file: str, text: str, folder: Path) -> None:
    path = folder / file
    whole = path.read_text()
    path.write_text(text)
    try:
        said = refusal(folder)
    finally:
        path.write_text(whole)
    assert said is not None and str(path) in said and "download the teacher again" in said


@pytest.mark.parametrize("name", WEIGHTS)
def test_hostile_weights_of_a_teacher_are_refused(name: str, folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(WEIGHTS[name](whole))
    try:
        said = refusal(folder)
    finally:
        path.write_bytes(whole)
    if name in HARMLESS | UNREAD:
        assert said is None
    else:
        assert said is not None and str(folder) in said


def test_a_number_as_text_says_to_write_it_without_quotation_marks(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"max_seq_length": "32", "layers": "six"}')
    config = ConfigFile(path)
    with pytest.raises(UserError) as refused:
        config.integer("max_seq_length", high=512)
    assert str(refused.value) == (
        f"{path}: max_seq_length must be an integer from 1 to 512, got the text '32'; write it without quotation marks"
    )
    with pytest.raises(UserError, match=r"layers must be .*, got 'six'; correct it, or download the teacher again"):
        config.integer("layers")


def test_what_is_right_is_returned_as_it_is(tmp_path: Path) -> None:
    values: dict[str, Any] = {"integer": 3, "number": 10**30, "switch": False, "text": "", "table": {"a": 1}}
    (tmp_path / "c.json").write_text(json.dumps(values | {"null": None}))
    config = ConfigFile(tmp_path / "c.json")
    assert (config.integer("integer"), config.positive("number"), config.boolean("switch")) == (3, 10**30, False)
    assert (config.text("text"), config.table("table"), config.table("null")) == ("", {"a": 1}, {})
    assert config.integer("null") is config.text("missing") is config.boolean("null") is None
    assert ConfigFile(tmp_path / "nowhere.json", is_optional=True).values == {}
