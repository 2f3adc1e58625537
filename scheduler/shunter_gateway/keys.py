"""API keys from a YAML file: hashed, compared in constant time, reloaded without a restart.

- name: team-a            # for logs and spans
  sha256: 9f86d081...     # of the whole key, hexadecimal
  tenant: acme
  classes: [interactive]  # empty or absent: all
  may_set_headers: false  # x-shunter-class, -tenant, -deadline-ms, -workflow and its stages
"""

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
import structlog
import yaml
from msgspec import Meta

_log = structlog.get_logger(__name__)
_MAX_FILE_BYTES = 16 << 20
_MAX_KEY_CHARS = 4096
Stamp = tuple[int, int, int]  # inode, mtime in ns, size


class KeyFileError(Exception):
    """The key file cannot be read or parsed; the message names the file and the place."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$")]
    tenant: Annotated[str, Meta(min_length=1)] = "default"
    classes: tuple[str, ...] = ()
    may_set_headers: bool = False


# Who asks where no keys are configured: a gateway on loopback trusts its own machine.
ANYBODY = ApiKey(name="anybody", sha256="0" * 64, may_set_headers=True)


class Keys(Protocol):
    def identify(self, authorization: str | None) -> ApiKey | None:
        """The key of an `Authorization` header; None where it is missing or unknown."""


class OpenKeys:
    """Everybody may ask."""

    def identify(self, authorization: str | None) -> ApiKey | None:
        return ANYBODY


@dataclass(frozen=True, slots=True)
class _Loaded:
    stamp: Stamp
    keys: tuple[tuple[bytes, ApiKey], ...]


class KeyFile:
    """Keys of one file. A bad edit is refused: the keys in force stay."""

    def __init__(self, path: Path, on_reload: Callable[[str], None] = lambda _: None) -> None:
        """Raises `KeyFileError`."""
        self._path = path
        self._on_reload = on_reload
        self._loaded = _load(path)
        self._seen = self._loaded.stamp

    def identify(self, authorization: str | None) -> ApiKey | None:
        scheme, _, presented = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not presented or len(presented) > _MAX_KEY_CHARS:
            return None
        digest = hashlib.sha256(presented.strip().encode("utf-8", "replace")).digest()
        found: ApiKey | None = None
        for known, key in self._loaded.keys:  # all of them: the time tells nothing
            if hmac.compare_digest(known, digest):
                found = key
        return found

    def reload(self) -> None:
        """Reads the file again where it changed."""
        try:
            stamp = _stamp(self._path)
            if stamp == self._seen:
                return
            self._seen = stamp  # a refused edit is reported once
            self._loaded = _load(self._path)
        except KeyFileError as error:
            _log.warning("api_keys_refused", path=str(self._path), reason=str(error))
            self._on_reload("refused")
            return
        _log.info("api_keys_loaded", path=str(self._path), count=len(self._loaded.keys))
        self._on_reload("loaded")

    async def watch(self, interval_s: float = 1.0) -> None:
        """Polls the file for ever; a mounted Secret changes by a link that no watcher sees."""
        while True:
            await asyncio.sleep(interval_s)
            await asyncio.to_thread(self.reload)


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from error
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _load(path: Path) -> _Loaded:
    stamp = _stamp(path)
    if stamp[2] > _MAX_FILE_BYTES:
        raise KeyFileError(f"{path}: larger than {_MAX_FILE_BYTES} bytes")
    try:
        document = yaml.safe_load(path.read_bytes())
        keys = msgspec.convert(document if document is not None else [], list[ApiKey])
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise KeyFileError(f"{path}:{line}: not valid YAML") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path}: not valid YAML") from error
    except msgspec.ValidationError as error:
        raise KeyFileError(f"{path}: {error}") from error
    return _Loaded(stamp, tuple((bytes.fromhex(key.sha256), key) for key in keys))
