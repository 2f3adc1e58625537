"""Files of a Hugging Face model: from the local cache, else by HTTPS.

Small text files only (tokenizer and configuration) are read here; `model_fetch` brings weights by
the same `open_hub`.
"""

import os
import re
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from shunter_api.weights import WeightsReason

MAX_FILE_BYTES = 64 << 20
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*")
_SENDABLE = re.compile(r"[!-~]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 16
_SAID_CHARACTERS = 300  # of the hub's explanation


class HubError(Exception):
    """A file could not be had: not there, not allowed, too large, or too late."""

    def __init__(self, message: str, reason: WeightsReason = "WeightsFetchFailed") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class HubOptions:
    """`hub_cache` has Hugging Face's own layout and is only read; downloads go to `own_cache`."""

    hub_cache: Path = Path("~/.cache/huggingface/hub")
    own_cache: Path = Path("~/.cache/shunter/hub")
    endpoint: str = "https://huggingface.co"
    token: str = field(default="", repr=False)
    offline: bool = False
    deadline_s: float = 60.0
    token_type: str = "Bearer"
    remedy: str = "set HF_TOKEN to a token that may read it"  # where access is refused

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "HubOptions":
        """Obeys Hugging Face's variables: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN,
        HF_HUB_OFFLINE; and those of `cache_folder`."""
        hf_home = environ.get("HF_HOME") or f"{_cache_home(environ)}/huggingface"
        endpoint = environ.get("HF_ENDPOINT") or "https://huggingface.co"
        return cls(
            hub_cache=Path(environ.get("HF_HUB_CACHE") or f"{hf_home}/hub"),
            own_cache=cache_folder(environ) / "hub",
            endpoint=endpoint.rstrip("/"),
            token=environ.get("HF_TOKEN", "").strip(),
            offline=environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"},
        )


def cache_folder(environ: Mapping[str, str]) -> Path:
    """SHUNTER_CACHE, else `shunter` in XDG_CACHE_HOME, else ~/.cache/shunter."""
    own = environ.get("SHUNTER_CACHE") or f"{_cache_home(environ)}/shunter"
    return Path(own).expanduser()


def _cache_home(environ: Mapping[str, str]) -> str:
    return environ.get("XDG_CACHE_HOME") or "~/.cache"


@dataclass(frozen=True, slots=True)
class ModelReference:
    """`ORG/NAME` or `ORG/NAME@REVISION`; neither can leave a folder."""

    name: str
    revision: str

    @classmethod
    def parse(cls, reference: str) -> "ModelReference":
        """Raises `HubError`."""
        name, _, revision = reference.partition("@")
        revision = revision or "main"
        if not _NAME.fullmatch(name) or not _REVISION.fullmatch(revision):
            raise HubError(f"hf://{reference}: expected hf://ORG/NAME or hf://ORG/NAME@REVISION")
        return cls(name, revision)

    def url(self, endpoint: str, file_name: str) -> str:
        return f"{endpoint}/{self.name}/resolve/{self.revision}/{urllib.parse.quote(file_name)}"


@dataclass(slots=True)
class HubAnswer:
    """`sha256` is the file's digest where the hub states it, which it does for large files."""

    response: HTTPResponse
    sha256: str | None


def open_hub(
    url: str, options: HubOptions, timeout_s: float, headers: Mapping[str, str] | None = None
) -> HubAnswer:
    """Raises `HubError` for an address that is not HTTP(S) or a token that cannot be sent, and as
    `urllib.request` does."""
    if not url.startswith(("https://", "http://")):
        raise HubError(f"HF_ENDPOINT must be an http(s) address: {options.endpoint}")
    request = urllib.request.Request(url, headers=dict(headers or {}))
    if options.token:
        if not _SENDABLE.fullmatch(options.token):  # the client's own error would quote it
            told = f"the token holds characters that no header takes; {options.remedy}"
            raise HubError(told, "WeightsUnauthorized")
        # Unredirected: a redirect to a storage host must not carry the token there.
        request.add_unredirected_header("Authorization", f"{options.token_type} {options.token}")
    redirects = _Redirects()
    response = urllib.request.build_opener(redirects).open(request, timeout=timeout_s)
    return HubAnswer(response, redirects.sha256)


def read_beginning(
    response: HTTPResponse,
    count: int,
    timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> bytes:
    """At most `count` bytes. Raises `TimeoutError` where they take longer, however steadily a slow
    server sends one after the other."""
    deadline_at = clock() + timeout_s
    content = bytearray()
    while chunk := response.read1(min(_CHUNK_BYTES, count - len(content))):
        content += chunk
        if clock() > deadline_at:
            raise TimeoutError(f"{len(content)} bytes came in {timeout_s:g} s")
    return bytes(content)


def refusal(url: str, error: urllib.error.HTTPError, remedy: str) -> str:
    """What to tell about a 4xx or 5xx. The hub's own words say, for example, which form gives
    access to a gated model."""
    remedy = f"; {remedy}" if error.code in (401, 403) else ""
    said = " ".join((error.headers.get("X-Error-Message") or error.reason or "").split())
    return f"{url}: HTTP {error.code} {said[:_SAID_CHARACTERS]}{remedy}"


def refusal_reason(error: urllib.error.HTTPError) -> WeightsReason:
    if error.code in (401, 403):
        return "WeightsUnauthorized"
    if error.code in (404, 410):
        return "WeightsNotFound"
    return "WeightsUnavailable" if error.code == 429 or error.code >= 500 else "WeightsFetchFailed"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """The hub redirects to a storage host and names the file's digest in `X-Linked-Etag`. Small
    files and renamed repositories it redirects to itself, and wants the token there, too."""

    def __init__(self) -> None:
        self.sha256: str | None = None

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        digest = headers.get("X-Linked-Etag", "").strip('"').lower()
        if _SHA256.fullmatch(digest):
            self.sha256 = digest
        old, new = _origin(req.full_url), _origin(newurl)
        if old[0] == "https" and new[0] != "https":
            raise HubError(f"https://{old[1]} redirects to {new[0]}://{new[1]}, away from https")
        redirected = super().redirect_request(req, fp, code, msg, headers, newurl)
        authorization = req.unredirected_hdrs.get("Authorization")
        if redirected is not None and authorization and old == new:
            redirected.add_unredirected_header("Authorization", authorization)
        return redirected


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc.lower()


class ModelFiles:
    """One model's files. `reference` is `ORG/NAME` or `ORG/NAME@REVISION`."""

    def __init__(
        self,
        reference: str,
        options: HubOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `HubError`."""
        self._model = ModelReference.parse(reference)
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
                f"hf://{self._model.name}: {file_name} is not in {self._options.hub_cache} and "
                "HF_HUB_OFFLINE forbids to download it"
            )
        content = self._download(file_name)
        write_atomically(self._own_path(file_name), content)
        return content

    def _local_paths(self, file_name: str) -> list[Path]:
        name, revision = self._model.name, self._model.revision
        folder = self._options.hub_cache.expanduser() / f"models--{name.replace('/', '--')}"
        snapshot = revision
        reference = folder / "refs" / revision
        if reference.is_file():
            snapshot = reference.read_text(encoding="utf-8").strip()
        return [folder / "snapshots" / snapshot / file_name, self._own_path(file_name)]

    def _own_path(self, file_name: str) -> Path:
        own = self._options.own_cache.expanduser()
        return own / self._model.name / self._model.revision / file_name

    def _download(self, file_name: str) -> bytes:
        url = self._model.url(self._options.endpoint, file_name)
        try:
            with open_hub(url, self._options, self._left_s()).response as response:
                return self._read_bounded(response, url)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    raise FileNotFoundError(f"hf://{self._model.name} has no {file_name}") from None
                raise HubError(
                    refusal(url, error, self._options.remedy), refusal_reason(error)
                ) from error
        except (OSError, ValueError, HTTPException) as error:
            raise HubError(f"{url}: {error}; put the files into {self._own_path('')}") from error

    def _read_bounded(self, response: HTTPResponse, url: str) -> bytes:
        content = bytearray()
        while chunk := response.read(_CHUNK_BYTES):
            content += chunk
            if len(content) > MAX_FILE_BYTES:
                raise HubError(f"{url}: larger than {MAX_FILE_BYTES} bytes")
            self._left_s()
        length = response.headers.get("Content-Length")
        if length is not None and len(content) != int(length):
            raise HubError(f"{url}: the connection ended at {len(content)} of {length} bytes")
        return bytes(content)

    def _left_s(self) -> float:
        left_s = self._deadline_at - self._clock()
        if left_s <= 0:
            raise HubError(
                f"hf://{self._model.name}: not loaded within {self._options.deadline_s:g} s"
            )
        return left_s


def write_atomically(path: Path, content: bytes) -> None:
    """Raises `HubError`."""
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            part = Path(file.name)
            file.write(content)
        os.replace(part, path)
    except OSError as error:
        if part is not None:
            part.unlink(missing_ok=True)
        raise HubError(
            f"cannot write {path}: {error}; set SHUNTER_CACHE to a folder with room"
        ) from error
