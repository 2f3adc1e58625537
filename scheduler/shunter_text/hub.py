"""Files of a Hugging Face model: from the local cache, else by HTTPS. The only module of
`shunter_text` that talks to a network.

Small text files only (tokenizer and configuration), never weights.
"""

import os
import re
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MAX_FILE_BYTES = 64 << 20
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*")
_CHUNK_BYTES = 1 << 16


class HubError(Exception):
    """A file could not be had: not there, not allowed, too large, or too late."""


@dataclass(frozen=True, slots=True)
class HubOptions:
    """`hub_cache` has Hugging Face's own layout and is only read; downloads go to `own_cache`."""

    hub_cache: Path = Path("~/.cache/huggingface/hub")
    own_cache: Path = Path("~/.cache/shunter/hub")
    endpoint: str = "https://huggingface.co"
    token: str = field(default="", repr=False)
    offline: bool = False
    deadline_s: float = 60.0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "HubOptions":
        """Obeys Hugging Face's variables: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN,
        HF_HUB_OFFLINE; and XDG_CACHE_HOME."""
        cache_home = environ.get("XDG_CACHE_HOME", "~/.cache")
        hf_home = environ.get("HF_HOME", f"{cache_home}/huggingface")
        return cls(
            hub_cache=Path(environ.get("HF_HUB_CACHE", f"{hf_home}/hub")),
            own_cache=Path(cache_home) / "shunter" / "hub",
            endpoint=environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/"),
            token=environ.get("HF_TOKEN", ""),
            offline=environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"},
        )


class ModelFiles:
    """One model's files. `reference` is `ORG/NAME` or `ORG/NAME@REVISION`."""

    def __init__(
        self,
        reference: str,
        options: HubOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, _, revision = reference.partition("@")
        self.revision = revision or "main"
        if not _NAME.fullmatch(self.name) or not _REVISION.fullmatch(self.revision):
            raise HubError(f"hf://{reference}: expected hf://ORG/NAME or hf://ORG/NAME@REVISION")
        self._options = options
        self._clock = clock
        self._deadline_at = clock() + options.deadline_s

    def read(self, file_name: str) -> bytes:
        """Raises `HubError`, and `FileNotFoundError` where the model has no such file."""
        for path in self._local_paths(file_name):
            if path.is_file():
                return path.read_bytes()
        if self._options.offline:
            raise HubError(
                f"hf://{self.name}: {file_name} is not in {self._options.hub_cache} and "
                "HF_HUB_OFFLINE forbids to download it"
            )
        content = self._download(file_name)
        _write_atomically(self._own_path(file_name), content)
        return content

    def _local_paths(self, file_name: str) -> list[Path]:
        folder = self._options.hub_cache.expanduser() / f"models--{self.name.replace('/', '--')}"
        snapshot = self.revision
        reference = folder / "refs" / self.revision
        if reference.is_file():
            snapshot = reference.read_text(encoding="utf-8").strip()
        return [folder / "snapshots" / snapshot / file_name, self._own_path(file_name)]

    def _own_path(self, file_name: str) -> Path:
        return self._options.own_cache.expanduser() / self.name / self.revision / file_name

    def _download(self, file_name: str) -> bytes:
        url = f"{self._options.endpoint}/{self.name}/resolve/{self.revision}/{file_name}"
        request = urllib.request.Request(url)
        if request.type not in ("https", "http"):
            raise HubError(f"HF_ENDPOINT must be an http(s) address: {self._options.endpoint}")
        if self._options.token:
            # Unredirected: a redirect to a storage host must not carry the token there.
            request.add_unredirected_header("Authorization", f"Bearer {self._options.token}")
        try:
            with urllib.request.urlopen(request, timeout=self._left_s()) as response:
                return self._read_bounded(response.read, url)
        except urllib.error.HTTPError as error:
            with error:
                raise self._http_error(error, url, file_name) from error
        except (OSError, ValueError) as error:
            raise HubError(f"{url}: {error}; put the files into {self._own_path('')}") from error

    def _http_error(self, error: urllib.error.HTTPError, url: str, file_name: str) -> Exception:
        if error.code == 404:
            return FileNotFoundError(f"hf://{self.name} has no {file_name}")
        remedy = "; set HF_TOKEN to a token that may read it" if error.code in (401, 403) else ""
        return HubError(f"{url}: HTTP {error.code} {error.reason}{remedy}")

    def _read_bounded(self, read: Callable[[int], bytes], url: str) -> bytes:
        content = bytearray()
        while chunk := read(_CHUNK_BYTES):
            content += chunk
            if len(content) > MAX_FILE_BYTES:
                raise HubError(f"{url}: larger than {MAX_FILE_BYTES} bytes")
            self._left_s()
        return bytes(content)

    def _left_s(self) -> float:
        left_s = self._deadline_at - self._clock()
        if left_s <= 0:
            raise HubError(f"hf://{self.name}: not loaded within {self._options.deadline_s:g} s")
        return left_s


def _write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.replace(file.name, path)
