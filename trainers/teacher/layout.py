# SPDX-License-Identifier: Apache-2.0
"""How a teacher's folder is laid out: a plain transformers folder, or modules.json of sentence-transformers.

The second says how sentences are tokenised, pooled, projected, normalised and compared. What students do not support
(other poolings, a prompt before every text, further modules) raises ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spaces.errors import UserError
from spaces.student import Pooling, Projection
from trainers.teacher.config_file import DOWNLOAD_AGAIN, ConfigFile, kind_of, read_json

SETTINGS_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
"""Names of the transformer's settings, old and new; sentence-transformers reads the first that is not empty."""

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_TOKENIZER_SETTINGS = ("processor_kwargs", "tokenizer_args")
_TOKENIZER_KEYS = ("model_max_length", "do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space")
_HARMLESS = ("trust_remote_code", "attn_implementation", "torch_dtype", "dtype", "low_cpu_mem_usage", "use_cache")
_SHOWN = 200  # characters of a wrong value
_ANOTHER = "choose another teacher"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Paths of a folder's encoder and projection, and how sentences are tokenised, pooled, normalised and compared."""

    transformer: Path
    """Folder of the encoder and the tokenizer."""
    pooling: Pooling = Pooling.MEAN
    dense: Path | None = None
    """Folder of the projection; None: no projection."""
    projection: Projection | None = None
    normalise: bool = False
    similarity: str = "cosine"
    """Name of the function that compares two vectors, one of `SIMILARITIES`."""
    lowercase: bool = False
    """Whether texts are lower-cased before the tokenizer."""
    tokenizer_settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that take the place of those in tokenizer_config.json, `model_max_length` among them."""


def read_layout(folder: Path) -> Layout:
    """The layout of a folder: modules.json if it has one, a plain encoder otherwise."""
    if not (folder / "modules.json").is_file():
        return Layout(transformer=folder)
    paths = _module_paths(folder)
    similarity = _similarity(ConfigFile(folder / "config_sentence_transformers.json", is_optional=True))
    body, dense = paths["Transformer"], paths.get("Dense")
    for kind in ("Dense", "Normalize"):
        if kind in paths:
            _check_passes_sentences(ConfigFile(paths[kind] / "config.json", is_optional=True))
    settings = _transformer_settings(body)
    tokenizer_settings = _tokenizer_settings(settings)
    longest = settings.integer("max_seq_length")
    if longest is not None:
        tokenizer_settings.setdefault("model_max_length", longest)
    return Layout(
        transformer=body,
        pooling=_pooling(ConfigFile(paths["Pooling"] / "config.json")),
        dense=dense,
        projection=None if dense is None else _projection(ConfigFile(dense / "config.json")),
        normalise="Normalize" in paths,
        similarity=similarity,
        lowercase=settings.boolean("do_lower_case") or False,
        tokenizer_settings=tokenizer_settings,
    )


def _module_paths(folder: Path) -> dict[str, Path]:
    """The folder of each module, by its kind."""
    path = folder / "modules.json"
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise UserError(f"{path} must hold a list of modules, got {kind_of(modules)}; {DOWNLOAD_AGAIN}")
    for number, module in enumerate(modules):
        for key in ("type", "path"):
            if not isinstance(module.get(key), str):
                raise UserError(
                    f"{path}: {key} of module {number} must be a text, got {kind_of(module.get(key))}; {DOWNLOAD_AGAIN}"
                )
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    allowed = ["Transformer", "Pooling", *(["Dense"] if "Dense" in kinds else []), "Normalize"]
    if kinds not in (allowed, allowed[:-1]):
        raise UserError(
            f"{path}: a teacher's modules must be of the type Transformer, Pooling, at most one Dense, at most one "
            f"Normalize, in this order; got {', '.join(kinds)[:_SHOWN] or 'none'}; {_ANOTHER}"
        )
    paths = {kind: _inside(path, module["path"]) for kind, module in zip(kinds, modules, strict=True)}
    foreign = [module["type"] for module in modules if not module["type"].startswith("sentence_transformers.")]
    if foreign:
        raise UserError(
            f"{path}: a teacher's modules must be of a type of sentence_transformers, got "
            f"{', '.join(foreign)[:_SHOWN]}, whose code is not run; {_ANOTHER}"
        )
    return paths


def _inside(file: Path, name: str) -> Path:
    """The folder of a module's path, which must exist, unless the module has no files."""
    folder = file.parent.resolve()
    try:
        path = (folder / name).resolve()
        is_inside = path.is_relative_to(folder) and (path.is_dir() or not path.exists())
    except (OSError, ValueError):  # a name too long, or with a null character
        is_inside = False
    if not is_inside:
        raise UserError(
            f"{file}: a module's path must lie in the folder, got {kind_of(name)}; correct it, or {DOWNLOAD_AGAIN}"
        )
    return path


def _similarity(config: ConfigFile) -> str:
    """The function that compares vectors. Raises ValueError for settings that change every text or vector."""
    prompts, name = config.table("prompts"), config.text("default_prompt_name")
    prompt = prompts.get(name) if name is not None else None
    if prompt:
        raise UserError(
            f"{config.path}: a teacher must not put a prompt before every text, got {prompt!r}; set "
            "default_prompt_name to null, and write the prompt into the corpus where it is wanted"
        )
    if config.integer("truncate_dim") is not None:
        raise config.wrong("truncate_dim", "null, as students imitate whole vectors", remedy="set it to null")
    config.text("model_type", choices=["SentenceTransformer"], remedy=_ANOTHER)
    return config.text("similarity_fn_name", choices=SIMILARITIES) or "cosine"


def _transformer_settings(body: Path) -> ConfigFile:
    """The first file of `SETTINGS_FILES` that holds anything. Raises ValueError for what no student can imitate."""
    configs = [ConfigFile(body / name) for name in SETTINGS_FILES if (body / name).is_file()]
    settings = next((config for config in configs if config.values), None)
    if settings is None:
        return ConfigFile(body / SETTINGS_FILES[0], is_optional=True)
    for key in ("model_kwargs", "model_args", "config_kwargs", "config_args"):
        other = sorted(set(settings.table(key)) - set(_HARMLESS))
        if other:
            raise settings.wrong(key, f"without {', '.join(other)}", remedy=f"remove what is not needed, or {_ANOTHER}")
    settings.text("transformer_task", choices=["feature-extraction"], remedy=_ANOTHER)
    if settings.text("tokenizer_name_or_path") is not None:
        raise settings.wrong(
            "tokenizer_name_or_path", "null", remedy="save that tokenizer in the folder, and remove the key"
        )
    if settings.table("processing_kwargs"):
        raise settings.wrong("processing_kwargs", "empty", remedy=f"remove it, or {_ANOTHER}")
    modalities = settings.table("modality_config")
    read = {"method": "forward", "method_output_name": "last_hidden_state"}
    if modalities and modalities.get("text") != read:
        raise settings.wrong("modality_config", f"one with text read as {read}", remedy=_ANOTHER)
    return settings


def _tokenizer_settings(settings: ConfigFile) -> dict[str, Any]:
    key = next((name for name in _TOKENIZER_SETTINGS if settings.table(name)), _TOKENIZER_SETTINGS[0])
    found = {name: value for name, value in settings.table(key).items() if name not in (*_HARMLESS, "use_fast")}
    other = sorted(set(found) - set(_TOKENIZER_KEYS))
    if other:
        raise settings.wrong(
            key, f"of the keys {', '.join(_TOKENIZER_KEYS)}", remedy="write the others into tokenizer_config.json"
        )
    for name, value in found.items():
        is_right = type(value) is int and value > 0 if name == "model_max_length" else type(value) is bool
        if not is_right and not (name == "strip_accents" and value is None):
            raise settings.wrong(key, f"with an integer for model_max_length and true or false for {name}")
    return found


def _check_passes_sentences(config: ConfigFile) -> None:
    for key in ("module_input_name", "module_output_name"):
        config.text(key, choices=["sentence_embedding"], remedy=_ANOTHER)


def _pooling(config: ConfigFile) -> Pooling:
    modes = config.values.get("pooling_mode")
    if modes is not None:
        name = modes[0] if isinstance(modes, list) and len(modes) == 1 else modes
        if name not in ("mean", "cls"):
            raise config.wrong("pooling_mode", "mean or cls, as a teacher's", remedy=_ANOTHER)
        return Pooling(name)
    chosen = [key for key in _POOLINGS if config.boolean(key)]
    names = [_POOLINGS[key] for key in chosen] or ["mean"]
    if names not in (["mean"], ["cls"]):
        raise UserError(f"{config.path}: a teacher's pooling must be mean or cls, got {', '.join(chosen)}; {_ANOTHER}")
    return Pooling(names[0])


def _projection(config: ConfigFile) -> Projection:
    name = config.text("activation_function")
    activation = "Tanh" if name is None else name.rpartition(".")[2] if name.startswith("torch.") else ""
    kinds = {"Tanh": Projection.TANH, "Identity": Projection.LINEAR}
    if activation not in kinds:
        raise config.wrong("activation_function", "torch's Tanh or Identity, as a teacher's", remedy=_ANOTHER)
    if config.boolean("use_residual"):
        raise config.wrong("use_residual", "false, as a teacher's", remedy=_ANOTHER)
    return kinds[activation]
