"""What a vLLM worker does for the connector: copies blocks between its KV cache and the folder.

Whatever fails here must not fail the step: a block that cannot be written is missing later, and one
that cannot be read is computed.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Protocol

from shunter_vllm.folder import BlockDamaged, BlockFolder
from shunter_vllm.ports import Copy

GROUP_BLOCKS = 32  # copied together: few calls to a GPU, and little memory
_log = logging.getLogger("vllm.shunter")  # beside vLLM's own lines


class KvCache(Protocol):
    """A worker's KV cache."""

    @property
    def block_bytes(self) -> int: ...

    def read(self, block_ids: Sequence[int]) -> Sequence[Sequence[bytes | memoryview]]:
        """Of each block its part in each layer."""

    def write(self, block_ids: Sequence[int], payloads: Sequence[memoryview]) -> None:
        """Of each block what `read` gave, joined: `block_bytes` bytes."""


class WorkerSide:
    def __init__(self, folder: BlockFolder, rank: int) -> None:
        self._folder = folder
        self._rank = rank
        self._cache: KvCache | None = None
        self._failed_blocks: set[int] = set()

    def use(self, cache: KvCache) -> None:
        self._cache = cache

    def load(self, copies: Sequence[Copy]) -> None:
        """Blocks that cannot be had are told by `take_failed_blocks`."""
        for group in _groups(copies):
            payloads = [self._payload(copy) for copy in group]
            found = [(c.block_id, p) for c, p in zip(group, payloads, strict=True) if p is not None]
            lost = [c.block_id for c, p in zip(group, payloads, strict=True) if p is None]
            self._failed_blocks.update(lost)
            try:
                if self._cache is not None and found:
                    self._cache.write([block for block, _ in found], [p for _, p in found])
            except Exception:  # vLLM computes them
                _log.exception("%d blocks not loaded, so computed", len(found))
                self._failed_blocks.update(block for block, _ in found)

    def _payload(self, copy: Copy) -> memoryview | None:
        try:
            if self._cache is None:
                raise BlockDamaged("no KV cache is registered")
            payload = self._folder.read(copy.key, self._rank)
            if len(payload) != self._cache.block_bytes:
                raise BlockDamaged(f"{len(payload)} bytes for a block of {self._cache.block_bytes}")
        except (OSError, BlockDamaged) as error:
            _log.warning("a block is not loaded, so computed: %s", error)
            return None
        return payload

    def save(self, copies: Sequence[Copy]) -> None:
        """Of blocks that cannot be written none is there; who waits for them gives up."""
        for group in _groups(copies):
            try:
                blocks = self._cache.read([c.block_id for c in group]) if self._cache else ()
                for copy, parts in zip(group, blocks, strict=False):
                    self._folder.write(copy.key, self._rank, parts)
            except Exception:
                _log.exception("up to %d blocks not copied out", len(group))

    def take_failed_blocks(self) -> set[int]:
        failed, self._failed_blocks = self._failed_blocks, set()
        return failed


def _groups(copies: Sequence[Copy]) -> Iterator[Sequence[Copy]]:
    for first in range(0, len(copies), GROUP_BLOCKS):
        yield copies[first : first + GROUP_BLOCKS]
