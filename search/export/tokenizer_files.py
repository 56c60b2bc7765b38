# SPDX-License-Identifier: Apache-2.0
"""A student's tokenizer as transformers, text-embeddings-inference, fastembed and transformers.js read it.

tokenizer.json             the student's own, unless the caller changes it
tokenizer_config.json      the class, the roles of special tokens, the longest sentence
special_tokens_map.json    the roles again, for readers of the time before transformers 5
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.folder import StudentFolder
from spaces.errors import UserError

NO_LIMIT = 2**31 - 1
"""Tokens of the longest sentence of a student without a maximum: readers want a number that fits 32 bits."""

_NAMES = {  # names of special tokens by role
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}


def write_tokenizer(student: StudentFolder, out: Path) -> int:
    """Writes the files to the folder `out`; returns the id of the padding token.

    Raises ValueError if the tokenizer has no special token: padding needs one, and one that were added would change how
    text is split.
    """
    text = student.tokenizer_path.read_text(encoding="utf-8")
    ids = {token["content"]: int(token["id"]) for token in json.loads(text).get("added_tokens", ())}
    roles = {role: next((name for name in names if name in ids), None) for role, names in _NAMES.items()}
    special: dict[str, str] = {role: name for role, name in roles.items() if name is not None}
    if not ids:
        raise UserError(
            f"this format pads batches with a special token, and {student.tokenizer_path} has none; "
            "export the student as folder instead"
        )
    special.setdefault("pad_token", next(iter(ids)))  # padding is masked, so any token will do
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": NO_LIMIT if student.max_tokens is None else student.max_tokens,
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        **special,
    }
    (out / "tokenizer.json").write_text(text, encoding="utf-8")
    write_json(out / "tokenizer_config.json", config)
    write_json(out / "special_tokens_map.json", special)
    return ids[special["pad_token"]]


def write_json(path: Path, document: object) -> None:
    """Writes a JSON file; its folder is created."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
