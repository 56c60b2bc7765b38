# SPDX-License-Identifier: Apache-2.0
"""A teacher's tokenizer as its folder means it: what transformers' AutoTokenizer, and so sentence-transformers, makes.

tokenizer.json alone is not enough: tokenizer_config.json may change its lower-casing, accents, first space and special
tokens, and the class that it names may replace the post-processor. The result is one tokenizer.json, which every
student carries. What such a file cannot say (padding or truncation at the left) is refused.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers

from spaces.errors import UserError
from trainers.teacher.config_file import DOWNLOAD_AGAIN, ConfigFile

SETTINGS_FILE = "tokenizer_config.json"
SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", *SENTENCEPIECE_FILES)
SWITCHES = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space", "split_special_tokens")
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
NAMING_FILES = ("tokenizer.json", SETTINGS_FILE, "special_tokens_map.json", "added_tokens.json")
FOREIGN_SHARE = 0.01  # of the rows; with more tokens without a row the tokenizer is of another model
_SHOWN_TOKENS = 3  # in a message
_SHOWN = 300  # characters of a library's message
LONGEST = 10**9  # transformers writes a larger number for "no limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherTokenizer:
    """A tokenizer and where it cuts."""

    json: str
    """Text of its tokenizer.json, without truncation and padding."""
    max_tokens: int | None
    """Tokens at which it cuts sentences, special tokens included; None: never."""


def read_tokenizer(
    folder: Path, *, lowercase: bool = False, settings: Mapping[str, Any] | None = None
) -> TeacherTokenizer:
    """The folder's tokenizer; `settings` take the place of those in tokenizer_config.json.

    `lowercase` puts lower-casing before everything else, as sentence-transformers' do_lower_case does.
    Raises ValueError naming the file, the setting and the remedy if it cannot be read or used.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"{folder} must hold the teacher's tokenizer (tokenizer.json), and has none; save it there with "
            "`AutoTokenizer.from_pretrained(...).save_pretrained(folder)`"
        )
    _check_settings(ConfigFile(folder / SETTINGS_FILE, is_optional=True))
    if (folder / "tokenizer.json").is_file():
        with _naming_the_folder(folder):
            Tokenizer.from_file(
                str(folder / "tokenizer.json")
            )  # transformers makes a default one of some damaged files
    else:
        _check_sentencepiece(folder)
    with _naming_the_folder(folder):
        loaded = _load(folder, settings or {})
        tokenizer = Tokenizer.from_str(_backend(loaded, folder).to_str())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if lowercase and not _has_lowercase(tokenizer.normalizer):
            parts = [normalizers.Lowercase(), *([tokenizer.normalizer] if tokenizer.normalizer else [])]
            tokenizer.normalizer = normalizers.Sequence(parts)
        _check_supported(loaded, tokenizer, folder)
        limit = loaded.model_max_length
        return TeacherTokenizer(json=tokenizer.to_str(), max_tokens=int(limit) if limit < LONGEST else None)


def with_rows(tokenizer_json: str, n_rows: int, *, folder: Path) -> str:
    """The folder's tokenizer, all of whose tokens have a row in the token table. Raises ValueError if one has none.

    A special token that no file of the folder names is left out instead: transformers adds the defaults of a class,
    such as [MASK], and on a text that holds it sentence-transformers fails.
    """
    tokens = Tokenizer.from_str(tokenizer_json).get_vocab(with_added_tokens=True)
    without = {token: number for token, number in tokens.items() if number >= n_rows}
    if not without:
        return tokenizer_json
    named = "".join((folder / name).read_text("utf-8") for name in NAMING_FILES if (folder / name).is_file())
    document = json.loads(tokenizer_json)
    kept = [
        token
        for token in document["added_tokens"]
        if token["content"] not in without or json.dumps(token["content"], ensure_ascii=False) in named
    ]
    fewer = Tokenizer.from_str(json.dumps(document | {"added_tokens": kept}))
    ids = [*fewer.get_vocab(with_added_tokens=True).values(), *fewer.encode("").ids]
    if max(ids) < n_rows:
        return str(fewer.to_str())
    listed = sorted(without.items(), key=lambda item: item[1])
    shown = ", ".join(f"{token!r} ({number})" for token, number in listed[:_SHOWN_TOKENS])
    more = f" and {len(listed) - _SHOWN_TOKENS} more" if len(listed) > _SHOWN_TOKENS else ""
    remedy = f"they are not of one model, {DOWNLOAD_AGAIN}"
    if len(listed) <= max(1, FOREIGN_SHARE * n_rows):
        remedy = (
            "give every token a row and save the model again: "
            f"`model.resize_token_embeddings({listed[-1][1] + 1}); model.save_pretrained(folder)`"
        )
    raise UserError(
        f"{folder}: every token needs a row in the token table, which has {n_rows}; none have {shown}{more}; {remedy}"
    )


@contextmanager
def _naming_the_folder(folder: Path) -> Iterator[None]:
    """Turns errors of tokenizers and transformers, which may be of any kind, into ValueError."""
    try:
        yield
    except (UserError, MemoryError, ImportError):
        raise
    except BaseException as error:  # tokenizers raises plain Exception, or PanicException, a BaseException
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        cause = _one_line(error)
        remedy = DOWNLOAD_AGAIN
        if (folder / "tokenizer.json").is_file() and not (folder / SETTINGS_FILE).is_file():
            remedy += f', or write {{"tokenizer_class": "PreTrainedTokenizerFast"}} into {SETTINGS_FILE} if its '
            remedy += "tokenizer.json is to be used as it is"
        raise UserError(f"{folder}: the tokenizer cannot be read: {cause}; {remedy}") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_SHOWN] or type(error).__name__


def _load(folder: Path, settings: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig, AutoTokenizer  # slow to import

    try:
        AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of any kind: a value of a key that only transformers reads
        cause = _one_line(error)
        raise UserError(
            f"{folder / 'config.json'} cannot be read by transformers: {cause}; correct it, or {DOWNLOAD_AGAIN}"
        ) from None
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **settings)


def _backend(loaded: Any, folder: Path) -> Tokenizer:
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UserError(
            f"{folder / SETTINGS_FILE}: tokenizer_class {type(loaded).__name__} is Python code that no tokenizer.json "
            "can express; choose a teacher whose tokenizer is one of the library tokenizers"
        )
    names = {kind: name for kind, name in loaded.vocab_files_names.items() if kind != "tokenizer_file"}
    missing = [name for name in names.values() if not (folder / name).is_file()]
    if missing and not (folder / "tokenizer.json").is_file():
        raise UserError(
            f"{folder}: its tokenizer, a {type(loaded).__name__}, is read from {' and '.join(names.values())}, and "
            f"{' and '.join(missing)} is missing; {DOWNLOAD_AGAIN}, or correct tokenizer_class in {SETTINGS_FILE}"
        )
    return backend


def _has_lowercase(normalizer: Any) -> bool:
    """As sentence-transformers looks for it: itself, or one of a sequence."""
    if isinstance(normalizer, normalizers.Sequence):
        return any(isinstance(part, normalizers.Lowercase) for part in normalizer)  # type: ignore[attr-defined]
    return isinstance(normalizer, normalizers.Lowercase)


def _check_settings(config: ConfigFile) -> None:
    """Values of a wrong type, which transformers takes as it likes: the text "false" is true there."""
    for key in SWITCHES:
        config.boolean(key)
    config.positive("model_max_length")
    config.text("tokenizer_class")
    for key in SPECIAL_TOKENS:
        value = config.values.get(key)
        if value is not None and not isinstance(value if isinstance(value, str) else _content(value), str):
            raise config.wrong(key, "a token: a text, or an object with its content")
    for key in ("padding_side", "truncation_side"):
        if key in config.values:
            config.required(key, config.text(key, choices=("right", "left")))
    added = config.values.get("added_tokens_decoder", {})
    tokens = added.items() if isinstance(added, dict) else [("", added)]
    if not all(key.isdecimal() and isinstance(_content(token), str) for key, token in tokens):
        raise config.wrong("added_tokens_decoder", "an object of tokens with their content, by their numbers")
    names = config.values.get("model_input_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise config.wrong("model_input_names", "a list of texts")


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else None


def _check_supported(loaded: Any, tokenizer: Tokenizer, folder: Path) -> None:
    path = folder / SETTINGS_FILE
    for key in ("padding_side", "truncation_side"):
        if getattr(loaded, key) != "right":
            raise UserError(
                f"{path}: a teacher's {key} must be right, got {getattr(loaded, key)!r} (there or in tokenizer.json); "
                f'write "{key}": "right" into it'
            )
    if getattr(loaded, "split_special_tokens", False):
        raise UserError(f"{path}: split_special_tokens must be false, got true; set it to false")
    if "attention_mask" not in loaded.model_input_names:
        raise UserError(
            f"{path}: model_input_names must hold attention_mask, got {loaded.model_input_names}; without it padding "
            "counts as text. Add it"
        )
    if "token_type_ids" in loaded.model_input_names and any(tokenizer.encode("a").type_ids):
        raise UserError(
            f"{folder / 'tokenizer.json'}: its post-processor must give every token of a single sentence the type 0; "
            "correct it, or choose another teacher"
        )


def _check_sentencepiece(folder: Path) -> None:
    name = next((name for name in SENTENCEPIECE_FILES if (folder / name).is_file()), None)
    if name is None:
        return
    missing = []
    for package, module in {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}.items():
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(package)
    if missing:
        raise UserError(
            f"{folder / name} is read with {' and '.join(missing)}, not installed here; pip install "
            f"{' '.join(missing)}, or save a tokenizer.json there with "
            "`AutoTokenizer.from_pretrained(folder).save_pretrained(folder)` where it is"
        )
    import sentencepiece

    try:
        sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
    except (RuntimeError, OSError) as error:
        raise UserError(f"{folder / name} is damaged: {str(error).strip()}; {DOWNLOAD_AGAIN}") from None
