"""What a source of weights has: a list of files, each of which can be brought to a path."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shunter_text.model_files import FetchOptions, ModelFileError

# Other forms of the same weights, which no engine reads beside safetensors.
_OTHER_FORMS = (".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ot", ".ckpt", ".gguf")
_OTHER_FOLDERS = ("original", "onnx", "openvino", "coreml", "metal", "gguf")
_SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")
_TOLD_NAMES = 20  # of files that are there instead of the one that is wanted


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """`name` is its path in the folder, `key` its path at the source."""

    name: str
    size: int | None  # in bytes, where it is known before
    key: str
    sha256: str = ""  # empty where the source does not say it
    etag: str = ""


class Origin(Protocol):
    """A source as it is now. `revision` changes with any of its files."""

    @property
    def revision(self) -> str: ...

    @property
    def files(self) -> Sequence[RemoteFile]: ...

    def fetch(self, file: RemoteFile, part: Path, options: FetchOptions) -> None:
        """Brings a file to `part`, which may hold the beginning that an earlier try left.

        Raises `ModelFileError`, and `OSError` where `part` cannot be written.
        """


Resolve = Callable[[str, FetchOptions], Origin]
"""`(rest, options)`: the source without its scheme. Raises `ModelFileError`."""


def wanted_files(files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """Without what holds the same weights a second time: other formats beside safetensors, and
    Mistral's `consolidated` beside Hugging Face's shards. Hidden files stay behind."""
    shown = [f for f in files if not any(part.startswith(".") for part in f.name.split("/"))]
    formed = [f.name for f in shown if f.name.endswith(".safetensors") and "/" not in f.name]
    if not formed:
        return shown
    twice = any(not name.startswith("consolidated") for name in formed)
    return [
        f
        for f in shown
        if not f.name.endswith(_OTHER_FORMS)
        and f.name.split("/")[0] not in _OTHER_FOLDERS
        and not (twice and f.name.startswith("consolidated"))
    ]


def wanted_shards(files: Sequence[RemoteFile], name: str) -> list[RemoteFile]:
    """A GGUF file, and all parts of one that is split."""
    names = set(shard_names(name))
    return [f for f in files if f.name in names]


def shard_names(name: str) -> list[str]:
    """A GGUF file's name, or those of all parts of one that is split (`-00001-of-00003.gguf`).
    Engines open the first and look for the others beside it."""
    shard = _SHARD.fullmatch(name)
    if shard is None:
        return [name]
    start, count = shard[1], shard[2]
    return [f"{start}-{part:05d}-of-{count}.gguf" for part in range(1, int(count) + 1)]


def told_names(names: Sequence[str]) -> str:
    """For an error that says what is there; empty for none."""
    more = len(names) - _TOLD_NAMES
    return ", ".join(names[:_TOLD_NAMES]) + (f" and {more} more" if more > 0 else "")


def checked_name(name: str, source: str) -> str:
    """A path that stays in its folder. Raises `ModelFileError`."""
    parts = name.split("/")
    if not all(parts) or ".." in parts or "." in parts or "\\" in name or "\0" in name:
        raise ModelFileError(f"{source} lists a file called {name!r}, which is no path in a folder")
    return name
