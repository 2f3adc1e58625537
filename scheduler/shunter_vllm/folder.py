"""Blocks as files: vLLM's scheduler and its workers are different processes of one host.

A file holds one worker's part of a block, raw, after its length and CRC-32. It appears whole or
not at all. Nobody but the owner may read the folder: keys and values tell much of a prompt.
"""

import os
import secrets
import stat
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

_HEAD = struct.Struct("<8sQI")
_MAGIC = b"shntr-kv"


class BlockDamaged(Exception):
    """A block is not what was written."""


class BlockFolder:
    """Any process may read and write; the one that made it keeps account of what is there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> None:
        """Empty, whatever a process before has left there. Raises `OSError` where it is somebody
        else's, or no folder, or where others may put one in its place."""
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        above = self.path.parent.stat()
        sticky = above.st_mode & stat.S_ISVTX
        if above.st_uid not in (0, os.geteuid()) or (above.st_mode & 0o022 and not sticky):
            raise PermissionError(
                f"{self.path.parent} can be changed by others: name a folder of this user's own, "
                "as one within it"
            )
        self.path.mkdir(mode=0o700, exist_ok=True)
        found = self.path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(f"{self.path} is not a folder of this user: name another one")
        self.path.chmod(0o700)
        self.clear()

    def clear(self) -> None:
        for file in self.path.iterdir():
            file.unlink(missing_ok=True)

    def write(self, key: bytes, rank: int, parts: Iterable[bytes | memoryview]) -> None:
        """Raises `OSError`, as where there is no space; then nothing is left."""
        kept = list(parts)
        crc = 0
        for part in kept:
            crc = zlib.crc32(part, crc)
        path = self._path(key, rank)
        # Two moves may bring the same block at one time, each on a thread of its own.
        temporary = path.with_suffix(f".{secrets.token_hex(8)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(_HEAD.pack(_MAGIC, sum(len(part) for part in kept), crc))
                file.writelines(kept)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def has(self, key: bytes, rank: int) -> bool:
        return self._path(key, rank).exists()

    def read(self, key: bytes, rank: int) -> memoryview:
        """Raises `OSError` and `BlockDamaged`."""
        data = self._path(key, rank).read_bytes()
        if len(data) < _HEAD.size:
            raise BlockDamaged(f"{key.hex()}: cut off")
        magic, length, crc = _HEAD.unpack_from(data)
        payload = memoryview(data)[_HEAD.size :]
        if magic != _MAGIC or length != len(payload) or zlib.crc32(payload) != crc:
            raise BlockDamaged(f"{key.hex()}: wrong checksum or length")
        return payload

    def sweep(self, known: Callable[[bytes], bool], before_s: float) -> None:
        """Removes files that nobody knows, last changed before this time (`time.time`)."""
        for file in self.path.iterdir():
            name = file.name.partition(".")[0]
            try:
                if not known(bytes.fromhex(name)) and file.stat().st_mtime < before_s:
                    file.unlink(missing_ok=True)
            except (FileNotFoundError, ValueError):  # it has gone, or is none of ours
                continue

    def remove(self, key: bytes, ranks: int) -> None:
        for rank in range(ranks):
            self._path(key, rank).unlink(missing_ok=True)

    def _path(self, key: bytes, rank: int) -> Path:
        return self.path / f"{key.hex()}.{rank}"
