"""A model's shape by any name a user has for it: a known one, a source, a config.json."""

import os
from collections.abc import Mapping
from pathlib import Path

from shunter_scheduler.costmodel import ModelShape, UnknownModel, model_shape, shape_from_config
from shunter_scheduler.costmodel.hf_config import MAX_CONFIG_BYTES
from shunter_text.hub import HubError, HubOptions, ModelFiles

CONFIG = "config.json"


def shape_of(model: str, environ: Mapping[str, str] = os.environ) -> ModelShape:
    """`model` is a name such as `llama-3.1-8b`, a source such as `hf://ORG/NAME`, or a path of a
    config.json or of a folder with one. Of `hf://` the file counts where a cache has it, else the
    name. Reads at most one small file, downloads nothing.

    Raises `UnknownModel`, `UnsupportedConfig`, `OSError`.
    """
    if (path := _file(model)) is not None:
        with path.open("rb") as file:
            return shape_from_config(file.read(MAX_CONFIG_BYTES + 1), _named(path))
    content = _cached(model, environ)
    if content is not None:
        return shape_from_config(content, model.rpartition("/")[2].lower())
    try:
        return model_shape(model)
    except UnknownModel as error:
        if not model.startswith("hf://"):
            raise
        raise UnknownModel(f"{error}; no cache has its {CONFIG} either") from error


def _file(model: str) -> Path | None:
    """None for what is known by name: no path, or one of a GGUF file."""
    path = Path(model.removeprefix("file://")).expanduser()
    if path.is_dir() and (path / CONFIG).is_file():
        return path / CONFIG
    if path.suffix == ".gguf":
        return None
    return path if path.suffix == ".json" or path.is_file() else None


def _named(path: Path) -> str:
    """After its folder, where the file is called as all are."""
    return (path.resolve().parent.name if path.name == CONFIG else path.stem).lower()


def _cached(source: str, environ: Mapping[str, str]) -> bytes | None:
    scheme, _, reference = source.partition("://")
    if scheme != "hf" or reference.endswith(".gguf"):
        return None
    options = HubOptions.from_environ({**environ, "HF_HUB_OFFLINE": "1"})
    try:
        return ModelFiles(reference, options).read(CONFIG)
    except (HubError, FileNotFoundError):
        return None
