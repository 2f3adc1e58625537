"""One engine's prefix cache as it describes it: blocks under the engine's own hashes, linked to
their parents, and the blocks of the prefix index that they make up.

A block of the index is there when all tokens of it, and all before it, are in engine blocks that
are there. Engine blocks may be of any size; where one is larger than a block of the index, two that
begin alike share index blocks, which are taken for gone with the first of the two.
"""

from array import array
from collections.abc import Iterator, Sequence

from msgspec import Struct

from shunter_scheduler.core.prefix_bytes import HASH_BYTES
from shunter_text.blocks import block_hashes

FEW = 8  # children up to which a tuple is as fast as a dictionary, and a quarter of its size

_Children = tuple[int, ...] | dict[int, None]


class _Block(Struct, gc=False):
    """`copies` is 0 where the block is gone and only links what continues it. `ends` are the
    blocks of the index that end in this one: for each the hashes under all roots, packed."""

    parent: int | None
    copies: int
    children: _Children  # one for most blocks, thousands where a system prompt ends
    tail: bytes  # tokens behind the last end, as uint32
    ends: tuple[bytes, ...]
    last: bytes  # of `ends`, or of the nearest block above that has any


class KvChains:
    """Bounded by `max_blocks` engine blocks: beyond it, `full` is set and nothing is added.

    A chain has one hash under each of the `roots` that were there when its first block was stored.
    """

    def __init__(self, roots: Sequence[int], index_tokens: int) -> None:
        self._roots = roots
        self._index_tokens = index_tokens
        self._blocks: dict[int, _Block] = {}
        self.max_blocks = 0
        self.full = False

    def __len__(self) -> int:
        return len(self._blocks)

    def store(
        self, hashes: Sequence[int], parent: int | None, tokens: "array[int]", block_tokens: int
    ) -> list[int]:
        """Notes blocks and returns the ends of the chains that are there now and may not have been
        before: engine hashes for `paths`. Empty where the parent is not known."""
        if parent is not None and parent not in self._blocks:
            return []
        revived: list[int] = []
        newest: list[int] = []
        for at, block_hash in enumerate(hashes):
            known = self._blocks.get(block_hash)
            if known is None:
                if len(self._blocks) >= self.max_blocks:
                    self.full = True
                    break
                content = tokens[at * block_tokens : (at + 1) * block_tokens]
                self._add(block_hash, parent, content)
                if self._blocks[block_hash].ends:
                    newest = [block_hash]
            else:
                known.copies += 1
                if known.copies == 1:
                    revived += self._leaves(block_hash)
            parent = block_hash
        return revived + newest

    def remove(self, block_hash: int) -> list[bytes]:
        """Notes that a copy of a block is gone. Returns the paths (of every root) that end in the
        first block of the index that is not there any more."""
        block = self._blocks.get(block_hash)
        if block is None or not block.copies:
            return []
        block.copies -= 1
        if block.copies:
            return []
        lost = [path for at in self._first_ends(block_hash) for path in self._paths(at, True)]
        self._unlink(block_hash)
        return lost

    def paths(self, block_hash: int) -> list[bytes]:
        """The packed hashes from the root down to a block, one for each root; none where a block
        above it is missing."""
        at: int | None = block_hash
        while at is not None:
            block = self._blocks[at]
            if not block.copies:
                return []
            at = block.parent
        return self._paths(block_hash, False)

    def _add(self, block_hash: int, parent: int | None, content: "array[int]") -> None:
        above = None if parent is None else self._blocks[parent]
        seeds = _packed(self._roots) if above is None else above.last
        pending = array("I")
        if above is not None:
            pending.frombytes(above.tail)
            above.children = _with(above.children, block_hash)
        pending.extend(content)
        full = len(pending) // self._index_tokens
        ends: tuple[bytes, ...] = ()
        if full:
            # For each root the hashes of all that is full; then for each block those of all roots.
            chains = [block_hashes(pending, seed, self._index_tokens) for seed in _unpacked(seeds)]
            ends = tuple(
                b"".join(chain[at : at + HASH_BYTES] for chain in chains)
                for at in range(0, full * HASH_BYTES, HASH_BYTES)
            )
        tail = pending[full * self._index_tokens :].tobytes()
        last = ends[-1] if ends else seeds
        self._blocks[block_hash] = _Block(parent, 1, (), tail, ends, last)

    def _leaves(self, top: int) -> list[int]:
        """The deepest blocks that are there without a gap from `top` on."""
        leaves, stack = [], [top]
        while stack:
            at = stack.pop()
            below = [one for one in self._blocks[at].children if self._blocks[one].copies]
            stack += below
            if not below:
                leaves.append(at)
        return leaves

    def _first_ends(self, top: int) -> Iterator[int]:
        """Blocks in which the part of the index that begins in or before `top` ends."""
        stack = [top]
        while stack:
            at = stack.pop()
            if self._blocks[at].ends:
                yield at
            else:
                stack += self._blocks[at].children

    def _paths(self, block_hash: int, first_end_only: bool) -> list[bytes]:
        ends: list[bytes] = []
        at: int | None = block_hash
        while at is not None:
            block = self._blocks[at]
            own = block.ends[:1] if first_end_only and at == block_hash else block.ends
            ends += reversed(own)
            at = block.parent
        ends.reverse()
        if not ends:
            return []
        roots = range(0, len(ends[0]), HASH_BYTES)
        return [b"".join(end[at : at + HASH_BYTES] for end in ends) for at in roots]

    def _unlink(self, block_hash: int) -> None:
        """Forgets a block that nothing continues, and those above that only linked it."""
        at: int | None = block_hash
        while at is not None:
            block = self._blocks[at]
            if block.copies or block.children:
                return
            del self._blocks[at]
            if block.parent is not None:
                above = self._blocks[block.parent]
                above.children = _without(above.children, at)
            at = block.parent


def _with(children: _Children, one: int) -> _Children:
    if isinstance(children, tuple):
        both = (*children, one)
        return both if len(both) <= FEW else dict.fromkeys(both)
    children[one] = None
    return children


def _without(children: _Children, one: int) -> _Children:
    if isinstance(children, tuple):
        return tuple(child for child in children if child != one)
    del children[one]
    return children


def _packed(numbers: Sequence[int]) -> bytes:
    return b"".join(number.to_bytes(HASH_BYTES, "little") for number in numbers)


def _unpacked(packed: bytes) -> list[int]:
    return [
        int.from_bytes(packed[at : at + HASH_BYTES], "little")
        for at in range(0, len(packed), HASH_BYTES)
    ]
