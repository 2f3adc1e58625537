"""A sequence inside the batch scheduler."""

from array import array
from collections.abc import Sequence as Tokens
from hashlib import blake2b
from typing import Final

from shunter_simulator.engine.kv_pool import KvPool
from shunter_simulator.engine.values import Chunk, SequenceSpec


class Sequence:
    """Tokens, how far they are computed, and the blocks that hold their keys and values."""

    __slots__ = (
        "_hashes",
        "block_table",
        "cached_tokens",
        "computed",
        "max_new_tokens",
        "order",
        "output_offset",
        "produced",
        "request_id",
        "serial",
        "token_ids",
    )

    def __init__(self, spec: SequenceSpec, serial: int, max_new_tokens: int) -> None:
        self.request_id: Final = spec.request_id
        self.serial: Final = serial
        self.order: Final = (spec.priority, serial)
        self.max_new_tokens: Final = max_new_tokens
        self.output_offset: Final = spec.output_offset
        self.token_ids = list(spec.token_ids)
        self.computed = 0
        self.produced = 0
        self.block_table: list[int] = []
        self.cached_tokens: int | None = None
        self._hashes: list[bytes] = []

    @property
    def pending(self) -> int:
        """Tokens still to compute before the next one can be sampled."""
        return len(self.token_ids) - self.computed

    def chunk(self, size: int) -> Chunk:
        """The next `size` of them, for a step that is planned."""
        start = self.computed
        return Chunk(
            self.request_id,
            self.serial,
            start,
            self.token_ids[start : start + size],
            self.block_table,
            start + size == len(self.token_ids),
            self.produced,
        )

    def hashes(self, full_blocks: int, block_tokens: int) -> list[bytes]:
        """Names of the first full blocks: a digest of a block's tokens and all tokens before it."""
        extend_hashes(self._hashes, self.token_ids, full_blocks, block_tokens)
        return self._hashes[:full_blocks]

    def publish_computed(self, pool: KvPool, before: int, block_tokens: int) -> None:
        """Makes the blocks that got full since `before` tokens were computed findable."""
        first, end = before // block_tokens, self.computed // block_tokens
        if first == end:
            return
        hashes = self.hashes(end, block_tokens)
        begin = first
        for index in range(first, end):
            if not pool.publish(self.block_table[index], hashes[index]):
                self._tell(pool, begin, index, block_tokens)
                begin = index + 1
        self._tell(pool, begin, end, block_tokens)

    def _tell(self, pool: KvPool, begin: int, end: int, block_tokens: int) -> None:
        if pool.listener is not None and begin < end:
            parent = self._hashes[begin - 1] if begin else None
            tokens = self.token_ids[begin * block_tokens : end * block_tokens]
            pool.listener.stored(self._hashes[begin:end], parent, tokens, block_tokens)


def block_hashes(token_ids: Tokens[int], full_blocks: int, block_tokens: int) -> list[bytes]:
    """See `Sequence.hashes`."""
    return extend_hashes([], token_ids, full_blocks, block_tokens)


def extend_hashes(
    known: list[bytes], token_ids: Tokens[int], full_blocks: int, block_tokens: int
) -> list[bytes]:
    """Adds to `known`, the names of the first blocks, those up to `full_blocks`."""
    if len(known) < full_blocks:
        tokens = token_ids[len(known) * block_tokens : full_blocks * block_tokens]
        content = array("I", tokens).tobytes()
        size = len(content) // (full_blocks - len(known))
        parent = known[-1] if known else b""
        for offset in range(0, len(content), size):
            parent = blake2b(parent + content[offset : offset + size], digest_size=16).digest()
            known.append(parent)
    return known
