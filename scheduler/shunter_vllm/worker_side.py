"""What a vLLM worker does for the connector: copies blocks between its KV cache and the folder.

Whatever fails here must not fail the step: a block that cannot be written is missing later, and one
that cannot be read is computed.
"""

import logging
from collections.abc import Sequence
from typing import Protocol

from shunter_vllm.folder import BlockDamaged, BlockFolder
from shunter_vllm.ports import Copy

_log = logging.getLogger("vllm.shunter")  # beside vLLM's own lines


class KvCache(Protocol):
    """A worker's KV cache."""

    def read(self, block_id: int) -> Sequence[bytes | memoryview]:
        """Each layer's part of a block."""

    def write(self, block_id: int, payload: memoryview) -> None:
        """What `read` gave, joined. Raises `BlockDamaged` where the size is another."""


class WorkerSide:
    def __init__(self, folder: BlockFolder, rank: int) -> None:
        self._folder = folder
        self._rank = rank
        self._cache: KvCache | None = None
        self._failed_blocks: set[int] = set()

    def use(self, cache: KvCache) -> None:
        self._cache = cache

    def load(self, copies: Sequence[Copy]) -> None:
        failed, reason = 0, ""
        for copy in copies:
            try:
                if self._cache is None:
                    raise BlockDamaged("no KV cache is registered")
                self._cache.write(copy.block_id, self._folder.read(copy.key, self._rank))
            except Exception as error:  # vLLM computes the block where it hears of it
                failed += 1
                self._failed_blocks.add(copy.block_id)
                reason = f"{type(error).__name__}: {error}"
        if failed:
            _log.warning("%d of %d blocks not loaded, so computed: %s", failed, len(copies), reason)

    def save(self, copies: Sequence[Copy]) -> None:
        failed, reason = 0, ""
        for copy in copies:
            try:
                if self._cache is not None:
                    self._folder.write(copy.key, self._rank, self._cache.read(copy.block_id))
            except Exception as error:  # whoever waits for it gives up after a while
                failed += 1
                reason = f"{type(error).__name__}: {error}"
        if failed:
            _log.warning("%d of %d blocks not copied out: %s", failed, len(copies), reason)

    def take_failed_blocks(self) -> set[int]:
        failed, self._failed_blocks = self._failed_blocks, set()
        return failed
