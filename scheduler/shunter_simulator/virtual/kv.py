"""KV memory by counts: free blocks, cached content in LRU order, reservations.

Where `engine.KvPool` knows each block, this knows how many there are. What is cached is known by
unit, a stretch of `EngineShape.cache_block_tokens` tokens that a workload named; or as what a
sequence has after those, which only it can find again, after a preemption.
"""

from collections.abc import Iterable, Sequence

from shunter_simulator.virtual.sequences import LiveSequence
from shunter_simulator.virtual.values import EngineShape


class KvAccount:
    """Invariant: free, cached and held blocks, reservations included, add up to all blocks."""

    def __init__(self, shape: EngineShape) -> None:
        self.total = shape.kv_blocks
        self.watermark = shape.watermark_blocks
        self._block_tokens = shape.block_tokens
        self._unit_tokens = shape.cache_block_tokens
        self._unit_blocks = shape.cache_block_tokens // shape.block_tokens
        self._empty = shape.kv_blocks
        self._idle = 0  # blocks of `_lru`
        # Content that nobody refers to, the least recently used first, and its blocks. The key of
        # a sequence's own content is ~serial.
        self._lru: dict[int, int] = {}
        self._references: dict[int, int] = {}  # of each unit that can be found
        self._reserved: dict[str, int] = {}

    @property
    def available(self) -> int:
        return self._empty + self._idle

    @property
    def used(self) -> int:
        return self.total - self._empty - self._idle

    @property
    def reservations(self) -> int:
        return len(self._reserved)

    def reserved(self, request_id: str) -> int:
        return self._reserved.get(request_id, 0)

    def reserve(self, request_id: str, blocks: int) -> bool:
        """Raises a reservation to `blocks`. False: that would touch the watermark."""
        more = blocks - self._reserved.get(request_id, 0)
        if more > 0:
            if self.available - more < self.watermark:
                return False
            self.take(more)
            self._reserved[request_id] = blocks
        return True

    def unreserve(self, request_id: str) -> int:
        """Gives the blocks of a reservation back. Returns how many there were."""
        blocks = self._reserved.pop(request_id, 0)
        self._empty += blocks
        return blocks

    def take(self, blocks: int) -> None:
        """Allocates; evicts the least recently used content where needed. Check `available`."""
        self._empty -= blocks
        while self._empty < 0:
            key = next(iter(self._lru))
            if key < 0:
                self._evict_own(key, -self._empty)
            else:
                del self._references[key]
                self._drop(key)

    def give(self, blocks: int) -> None:
        self._empty += blocks

    def admit(self, sequence: LiveSequence, reserve: int) -> bool:
        """Allocates blocks for all tokens of a sequence, cached ones shared. False: not now."""
        tokens, block_tokens = sequence.tokens, self._block_tokens
        blocks = -(-tokens // block_tokens)
        if not self._unit_tokens:
            if blocks + reserve > self._empty:
                return False
            self._empty -= blocks
            sequence.blocks = blocks
            return True
        # The last token is computed in any case: its logits give the next one.
        units = self._find(sequence.names[: (tokens - 1) // self._unit_tokens])
        own = 0  # further blocks, its own from before a preemption
        if len(units) == len(sequence.names):
            own = self._lru.get(~sequence.serial, 0)
        references, unit_blocks = self._references, self._unit_blocks
        referred = sum(unit_blocks for unit in units if references[unit])
        if blocks - referred + reserve > self.available:
            return False
        self._share(units)
        if ~sequence.serial in self._lru:  # used, or out of reach behind a gap
            self._drop(~sequence.serial)
            self._empty -= own
        self.take(blocks - own - len(units) * unit_blocks)
        sequence.units = list(units)
        sequence.blocks = blocks
        sequence.computed = len(units) * self._unit_tokens + own * block_tokens
        return True

    def publish(self, sequence: LiveSequence, before: int, computed: int) -> None:
        """Makes the units that got full since `before` tokens were computed findable."""
        if not self._unit_tokens:
            return
        first = before // self._unit_tokens
        for unit in sequence.names[first : computed // self._unit_tokens]:
            if unit not in self._references:  # of two equal ones the first stays known
                self._references[unit] = 1
                sequence.units.append(unit)

    def release(self, sequence: LiveSequence) -> None:
        """Frees a sequence's blocks. Ends of chains count as older than their beginnings."""
        blocks = sequence.blocks
        sequence.blocks = 0
        if not self._unit_tokens:
            self._empty += blocks
            return
        self.publish(sequence, sequence.prompt_tokens, sequence.computed)  # of the answer
        units = sequence.units
        named = len(sequence.names) * self._unit_blocks
        own = max(0, sequence.computed // self._block_tokens - named)
        if own:
            self._lru[~sequence.serial] = own
            self._idle += own
        self._empty += blocks - own - len(units) * self._unit_blocks
        for unit in reversed(units):
            self._references[unit] -= 1
            if not self._references[unit]:
                self._lru[unit] = self._unit_blocks
                self._idle += self._unit_blocks
        sequence.units = []

    def check(self, held: Iterable[LiveSequence]) -> None:
        """Raises `AssertionError` unless the books balance (for tests)."""
        live = list(held)
        references: dict[int, int] = {}
        for sequence in live:
            for unit in sequence.units:
                references[unit] = references.get(unit, 0) + 1
        assert references == {u: n for u, n in self._references.items() if n}
        shared = sum(n - 1 for n in references.values()) * self._unit_blocks
        owned = sum(s.blocks for s in live) - shared
        assert owned + sum(self._reserved.values()) == self.used
        assert self._idle == sum(self._lru.values())
        assert {u for u, n in self._references.items() if not n} == {u for u in self._lru if u >= 0}
        assert self._empty >= 0

    def _find(self, units: Sequence[int]) -> Sequence[int]:
        """The longest known prefix."""
        for found, unit in enumerate(units):
            if unit not in self._references:
                return units[:found]
        return units

    def _share(self, units: Sequence[int]) -> None:
        for unit in units:
            if not self._references[unit]:
                self._idle -= self._lru.pop(unit)
            self._references[unit] += 1

    def _evict_own(self, key: int, blocks: int) -> None:
        if self._lru[key] <= blocks:
            self._drop(key)
            return
        self._lru[key] -= blocks
        self._idle -= blocks
        self._empty += blocks

    def _drop(self, key: int) -> None:
        blocks = self._lru.pop(key)
        self._idle -= blocks
        self._empty += blocks
