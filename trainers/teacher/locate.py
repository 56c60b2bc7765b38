# SPDX-License-Identifier: Apache-2.0
"""Where a teacher's files lie: the folder of an installed package, or a given one, also a model in the hub's cache.

A folder that holds something else than a model (an adapter, a student, the whole cache) is named as what it is.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from spaces.errors import UserError
from spaces.fields import require_name
from trainers.teacher.checkpoint import INDEX, WEIGHTS
from trainers.teacher.config_file import DOWNLOAD_AGAIN, ConfigFile

ADAPTER = "adapter_config.json"
CACHED = "models--"  # what the names of models in the hub's cache begin with
_SHOWN = 5  # names in a message


def package_folder(distribution: str) -> Path:
    """The folder of the model that an installed distribution carries."""
    require_name("the package of a teacher", distribution)
    try:
        files = metadata.distribution(distribution).files or []
    except metadata.PackageNotFoundError:
        raise UserError(
            f"the package {distribution!r} of a teacher must be installed in this environment; run "
            f"`pip install {distribution}`"
        ) from None
    paths = [Path(str(file.locate())) for file in files if ".." not in file.parts]
    folders = {path.parent for path in paths if path.name == "modules.json"} or {
        path.parent
        for path in paths
        if path.name == "config.json" and any((path.parent / name).is_file() for name in (WEIGHTS, INDEX))
    }
    if len(folders) != 1:
        found = ", ".join(map(str, sorted(folders))) or "none"
        raise UserError(
            f"the package {distribution!r} must carry exactly one model folder (config.json, {WEIGHTS}), found {found}"
            "; give the model's folder as the teacher's source instead"
        )
    return folders.pop()


def model_folder(folder: Path) -> Path:
    """The folder itself, or the snapshot in it if it is a model of the hub's cache (`models--ORGANISATION--NAME`).

    Raises FileNotFoundError if there is none, ValueError if it holds an adapter, a student or the hub's cache.
    """
    if not folder.is_dir():
        if folder.exists():
            raise UserError(
                f"a teacher's source must be a folder, got the file {folder}; give the folder that it is in"
            )
        raise FileNotFoundError(
            f"there is no teacher folder {folder}; give a folder, package:NAME or hub:ORGANISATION/NAME"
        )
    if (folder / ADAPTER).is_file():
        base = ConfigFile(folder / ADAPTER).text("base_model_name_or_path") or "its base model"
        raise UserError(
            f"{folder} is a PEFT adapter of {base}, not a whole model; merge them, "
            "`AutoPeftModel.from_pretrained(folder).merge_and_unload().save_pretrained(merged)`, save the tokenizer "
            "there too, and give that folder"
        )
    if any((folder / name).exists() for name in ("config.json", "modules.json")):
        return folder
    if (folder / "student.json").is_file():
        raise UserError(
            f"{folder} is a student, and a teacher must be a model of transformers; give its teacher's folder"
        )
    if (folder / "snapshots").is_dir():
        return _snapshot(folder)
    for cache in (folder, folder / "hub"):
        models = sorted(path.name for path in cache.glob(f"{CACHED}*"))
        if models:
            ids = [name.removeprefix(CACHED).replace("--", "/") for name in models]
            more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
            raise UserError(
                f"{folder} is the hub's cache, not a model; give one of those in it: "
                f"{', '.join(f'hub:{name}' for name in ids[:_SHOWN])}{more}"
            )
    return folder


def _snapshot(folder: Path) -> Path:
    """The snapshot that the branch `main` of a cached model names, or the only one."""
    snapshots = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    main = folder / "refs" / "main"
    if main.is_file():
        commit = main.read_text(encoding="utf-8", errors="replace").strip()
        snapshots = [path for path in snapshots if path.name == commit]
    if len(snapshots) == 1:
        return snapshots[0]
    if not snapshots:
        raise UserError(f"{folder} is a model in the hub's cache without a complete download; {DOWNLOAD_AGAIN}")
    raise UserError(
        f"{folder} is a model in the hub's cache with {len(snapshots)} snapshots, and none of them is main; give one: "
        + ", ".join(map(str, snapshots[:_SHOWN]))
    )


def model_name(folder: Path) -> str:
    """The name that a folder stands for: its own, or NAME of `models--ORGANISATION--NAME` in the hub's cache."""
    resolved = folder.resolve()
    for path in (resolved, *resolved.parents[:2]):
        if path.name.startswith(CACHED):
            return path.name.rpartition("--")[2]
    return resolved.name
