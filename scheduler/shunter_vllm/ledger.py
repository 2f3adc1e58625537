"""What the folder of blocks holds, and for which moves. Pure."""

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Entry:
    holders: set[str] = field(default_factory=set)
    ready: bool = False


class BlockLedger:
    """Every block is held by a move, or goes: so leases bound time and `limit_blocks` memory."""

    def __init__(self, limit_blocks: int) -> None:
        self._limit_blocks = limit_blocks
        self._entries: dict[bytes, _Entry] = {}

    @property
    def free_blocks(self) -> int:
        return self._limit_blocks - len(self._entries)

    @property
    def empty(self) -> bool:
        return not self._entries

    def hold(self, key: bytes, holder: str) -> bool:
        """False: it is not there, and there is no room."""
        entry = self._entries.get(key)
        if entry is None:
            if self.free_blocks <= 0:
                return False
            entry = self._entries[key] = _Entry()
        entry.holders.add(holder)
        return True

    def has(self, key: bytes) -> bool:
        return key in self._entries

    def set_ready(self, key: bytes) -> bool:
        """Its bytes have arrived: it may be loaded. False: it has gone meanwhile."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        entry.ready = True
        return True

    def is_ready(self, key: bytes) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.ready

    def release(self, holder: str, keys: Collection[bytes]) -> list[bytes]:
        """Those of `keys` that nobody holds any more: their files go."""
        gone = []
        for key in keys:
            entry = self._entries.get(key)
            if entry is None:
                continue
            entry.holders.discard(holder)
            if not entry.holders:
                del self._entries[key]
                gone.append(key)
        return gone
