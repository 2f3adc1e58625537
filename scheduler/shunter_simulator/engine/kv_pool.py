"""Blocks of KV memory: shared by reference count, found again by content hash, evicted by LRU."""

from collections.abc import Iterable, Sequence
from typing import Protocol


class CacheListener(Protocol):
    """Hears which blocks can be found by their hashes, in order; must not wait."""

    def stored(
        self, hashes: Sequence[bytes], parent: bytes | None, tokens: Sequence[int], size: int
    ) -> None:
        """Consecutive full blocks of `size` tokens; the first goes on from `parent`, which may have
        been removed: two sequences had it, and the one whose block it was has ended."""

    def removed(self, block_hash: bytes) -> None: ...

    def step_ended(self) -> None: ...


class KvPool:
    """A block is free (nobody refers to it) or used. Free blocks keep their contents until reuse.

    Invariant: every block is in exactly one of `_empty`, `_cached_free` and the referred-to ones.
    """

    def __init__(self, blocks: int) -> None:
        self.total = blocks
        self._references = [0] * blocks
        self._hash_of: list[bytes | None] = [None] * blocks
        self._block_of: dict[bytes, int] = {}
        self._empty = list(range(blocks - 1, -1, -1))
        self._cached_free: dict[int, None] = {}  # in the order of last use, oldest first
        self._withheld = 0
        self.listener: CacheListener | None = None

    @property
    def available(self) -> int:
        """Blocks that can be allocated; negative while a shrunk pool is still in use."""
        return len(self._empty) + len(self._cached_free) - self._withheld

    @property
    def usable(self) -> int:
        return self.total - self._withheld

    @property
    def used(self) -> int:
        return self.total - len(self._empty) - len(self._cached_free)

    def shrink(self, fraction: float) -> None:
        """Leaves `fraction` of the blocks usable; 1 gives all of them back."""
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction must be in [0, 1], not {fraction}")
        self._withheld = self.total - int(self.total * fraction)

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks of the longest known prefix of `hashes`. Takes no reference."""
        found: list[int] = []
        for block_hash in hashes:
            block = self._block_of.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def free_among(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` a reference would take out of the available ones."""
        return sum(1 for block in blocks if not self._references[block])

    def share(self, blocks: Iterable[int]) -> None:
        """Takes one more reference to each of blocks that `find` returned."""
        for block in blocks:
            if not self._references[block]:
                del self._cached_free[block]
            self._references[block] += 1

    def allocate(self) -> int:
        """An empty block, or the least recently used free one. Check `available` first."""
        if self._empty:
            block = self._empty.pop()
        else:
            block = next(iter(self._cached_free))
            del self._cached_free[block]
            self._forget(block)
        self._references[block] = 1
        return block

    def publish(self, block: int, block_hash: bytes) -> bool:
        """Makes a full, computed block findable. Of two equal blocks the first stays known; False
        for the second."""
        if block_hash in self._block_of:
            return False
        self._block_of[block_hash] = block
        self._hash_of[block] = block_hash
        return True

    def release(self, blocks: Sequence[int]) -> None:
        """Gives one reference to each back. Ends of chains count as older than their beginnings."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            if self._hash_of[block] is None:
                self._empty.append(block)
            else:
                self._cached_free[block] = None

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raises `AssertionError` unless the books agree with the block tables (for tests)."""
        expected = [0] * self.total
        for table in tables:
            assert len(set(table)) == len(table), "a block occurs twice in one table"
            for block in table:
                expected[block] += 1
        assert self._references == expected, "reference counts differ from the tables"
        free = [*self._empty, *self._cached_free]
        assert sorted(free) == [b for b in range(self.total) if not expected[b]], "blocks leaked"
        assert self._block_of == {h: b for b, h in enumerate(self._hash_of) if h is not None}

    def _forget(self, block: int) -> None:
        block_hash = self._hash_of[block]
        if block_hash is not None:
            del self._block_of[block_hash]
            self._hash_of[block] = None
            if self.listener is not None:
                self.listener.removed(block_hash)
