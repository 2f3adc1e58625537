"""Which instance holds which prompt prefix: a radix tree over chain-hashed blocks.

An edge is a run of packed block hashes (8 bytes each), compared in one go; each node has the bit
set of the slots that hold it. Who holds a node holds all nodes above it, so one walk from the root
answers for all instances. Slots are bits, so `clear` a slot before another instance gets it.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from shunter_scheduler.core.prefix_bytes import HASH_BYTES, bits, common_bytes

__all__ = ["HASH_BYTES", "Match", "PrefixIndex"]

FEW = 4  # holders up to which one by one is faster than through an index array
# A first node (a system prompt) that at least one slot in so many holds has a whole column ready,
# which is faster; that is at most 8 x 16 bytes for each holder.
COLUMN_FROM = 16


# Of all leaves, never written to: most nodes are leaves. It is handed over by the caller, since
# msgspec copies a default that is an empty dictionary.
_NO_CHILDREN: dict[bytes, "_Node"] = {}


class _Node(Struct, eq=False):
    edge: bytes
    parent: "_Node | None"
    holders: int
    blocks: int  # of the edge
    end: int  # blocks from the root to the end of the edge
    children: dict[bytes, "_Node"]
    _slots: NDArray[np.intp] | None = None
    _ones: NDArray[np.float64] | None = None

    def adopt(self, child: "_Node") -> None:
        if self.children is _NO_CHILDREN:
            self.children = {}
        self.children[child.edge[:HASH_BYTES]] = child

    def flip(self, slot: int) -> None:
        """A slot that held the node does not any more, or the other way round."""
        self.holders ^= 1 << slot
        self._slots = None
        ones = self._ones
        if ones is not None:
            if slot < len(ones) <= self.holders.bit_count() * COLUMN_FROM:
                ones[slot] = self.holders >> slot & 1
            else:
                self._ones = None

    def slots(self) -> NDArray[np.intp]:
        """The holders as an index array, kept until they change."""
        if self._slots is None:
            self._slots = np.flatnonzero(self._unpacked(self.holders.bit_length() // 8 + 1))
        return self._slots

    def ones(self, count: int) -> NDArray[np.float64]:
        """1.0 for each holder, else 0.0, for `count` slots; kept, and changed with the holders."""
        if self._ones is None or len(self._ones) != count:
            self._ones = self._unpacked(-(-count // 8))[:count].astype(np.float64)
        return self._ones

    def _unpacked(self, size: int) -> NDArray[np.uint8]:
        packed = np.frombuffer(self.holders.to_bytes(size, "little"), dtype=np.uint8)
        return np.unpackbits(packed, bitorder="little")


class Match(Struct, eq=False):
    """Where a walk ended: nodes from the root down, of which the last may match in part only."""

    path: list[_Node]
    matched_bytes: int
    partial_bytes: int  # of the last node's edge; 0 where all of it matched


@dataclass(slots=True, eq=False)
class _Held:
    """What one slot holds: `recent` are its nodes, the least recently used first."""

    slot: int
    bit: int  # of the slot
    capacity: int  # blocks
    blocks: int = 0
    recent: OrderedDict[_Node, None] = field(default_factory=OrderedDict)


class PrefixIndex:
    """Bounded: each slot by its own capacity, all together by `max_blocks`.

    A slot gives up what it used least recently, a node at a time and with it all that continues it.
    Over `max_blocks` the slots give in turn.
    """

    def __init__(self, max_blocks: int) -> None:
        self.max_blocks = max_blocks
        self.blocks = 0
        self._root = _Node(b"", None, 0, 0, 0, _NO_CHILDREN)
        self._held: dict[int, _Held] = {}
        self._giving: deque[_Held] = deque()  # in the order of their turn

    def open(self, slot: int, capacity_blocks: int) -> None:
        """Starts or resizes a slot."""
        held = self._held.get(slot)
        if held is None:
            held = self._held[slot] = _Held(slot, 1 << slot, capacity_blocks)
            self._giving.append(held)
        held.capacity = capacity_blocks
        self._shrink(held)

    def clear(self, slot: int) -> None:
        """Forgets all that a slot holds, and the slot."""
        held = self._held.pop(slot, None)
        if held is None:
            return
        while held.recent:
            self._drop_oldest(held)
        self._giving.remove(held)

    def held_blocks(self, slot: int) -> int:
        held = self._held.get(slot)
        return held.blocks if held else 0

    def match(self, hashes: bytes) -> Match:
        """One walk for all slots."""
        path: list[_Node] = []
        node, at, end = self._root, 0, len(hashes)
        while at < end:
            child = node.children.get(hashes[at : at + HASH_BYTES])
            if child is None:
                break
            node = child
            path.append(node)
            edge = node.edge
            if not hashes.startswith(edge, at):
                partial = common_bytes(edge, hashes, at)
                return Match(path, at + partial, partial)
            at += len(edge)
        return Match(path, at, 0)

    def fill(
        self, found: Match, tokens_per_block: int, limit: int, out: NDArray[np.float64]
    ) -> None:
        """Writes the tokens held per slot into `out`, at most `limit` each."""
        path = found.path
        size = len(out)
        many = bool(path) and path[0].holders.bit_count() * COLUMN_FROM >= size
        if not many:
            out.fill(0.0)
        last = len(path) - 1
        for at, node in enumerate(path):
            holders = node.holders
            blocks = node.end if at < last else found.matched_bytes // HASH_BYTES
            tokens = blocks * tokens_per_block
            if tokens > limit:
                tokens = limit
            if many:
                np.multiply(node.ones(size), tokens, out)
                many = False
            elif at < last and path[at + 1].holders == holders:
                continue  # all of them hold more
            elif holders.bit_count() <= FEW:
                while holders:
                    low = holders & -holders
                    out[low.bit_length() - 1] = tokens
                    holders ^= low
            else:
                out[node.slots()] = tokens

    def insert(self, slot: int, hashes: bytes, found: Match, grow: bool = False) -> None:
        """Notes that a slot holds `hashes`. `found` is their match, with no change since, and is
        used up. `grow`: what continues a leaf of this slot alone makes no new node: for answers,
        that come block by block."""
        held = self._held[slot]
        if len(hashes) > held.capacity * HASH_BYTES:
            hashes = hashes[: held.capacity * HASH_BYTES]
            found = self.match(hashes)
        if not hashes:
            return
        bit, path, matched, recent = held.bit, found.path, found.matched_bytes, held.recent
        goes_on = matched < len(hashes)
        if found.partial_bytes and (goes_on or not path[-1].holders & bit):
            path[-1] = self._split(path[-1], found.partial_bytes)
        if goes_on:
            parent = path[-1] if path else self._root
            blocks = (len(hashes) - matched) // HASH_BYTES
            end = parent.end + blocks
            self.blocks += blocks
            held.blocks += blocks
            if grow and path and parent.holders == bit and not parent.children:
                parent.edge += hashes[matched:]
                parent.blocks += blocks
                parent.end = end
            else:
                leaf = _Node(hashes[matched:], parent, bit, blocks, end, _NO_CHILDREN)
                parent.adopt(leaf)
                recent[leaf] = None
        # From the leaf up, so that what continues a node never outlives it in the order.
        path.reverse()
        for node in path:
            if node.holders & bit:
                recent.move_to_end(node)
            else:
                node.flip(slot)
                held.blocks += node.blocks
                recent[node] = None
        if held.blocks > held.capacity:
            self._shrink(held)
        while self.blocks > self.max_blocks:
            self._give_one()

    def knows(self, first: bytes) -> bool:
        """Whether any slot holds a chain that begins with this block."""
        return first in self._root.children

    def cut(self, slot: int, hashes: bytes) -> None:
        """A slot does not hold the last block of `hashes` any more, nor what continues it."""
        held, found = self._held.get(slot), self.match(hashes)
        if held is None or not hashes or found.matched_bytes < len(hashes):
            return
        node = found.path[-1]
        if not node.holders & held.bit:
            return
        above = len(hashes) - HASH_BYTES - (node.end - node.blocks) * HASH_BYTES
        if above:
            self._split(node, above)
        self._drop(node, held)

    def holders_of(self, hashes: bytes) -> dict[int, int]:
        """Blocks held per slot, of slots that hold any."""
        found = self.match(hashes)
        matched = found.matched_bytes // HASH_BYTES
        return {slot: min(node.end, matched) for node in found.path for slot in bits(node.holders)}

    def _split(self, node: _Node, at_bytes: int) -> _Node:
        """Cuts a node in two and returns the upper part, which is new."""
        assert node.parent is not None
        blocks = at_bytes // HASH_BYTES
        end = node.parent.end + blocks
        upper = _Node(node.edge[:at_bytes], node.parent, node.holders, blocks, end, _NO_CHILDREN)
        node.parent.adopt(upper)
        node.edge = node.edge[at_bytes:]
        node.blocks -= blocks
        node.parent, node._ones = upper, None  # only first nodes have a column
        upper.adopt(node)
        for slot in bits(node.holders):
            self._held[slot].recent[upper] = None
        return upper

    def _shrink(self, held: _Held) -> None:
        while held.blocks > held.capacity:
            self._drop_oldest(held)

    def _drop_oldest(self, held: _Held) -> None:
        """Takes a slot off the node that it used least recently, see `_drop`."""
        self._drop(next(iter(held.recent)), held)

    def _drop(self, top: _Node, held: _Held) -> None:
        """Takes a slot off a node and off all that continues it."""
        del held.recent[top]
        if top.children:
            for node in list(_held_below(top, held.bit)):
                del held.recent[node]
                self._take_off(node, held)
        self._take_off(top, held)

    def _take_off(self, node: _Node, held: _Held) -> None:
        held.blocks -= node.blocks
        if node.holders != held.bit:
            node.flip(held.slot)
            return
        parent = node.parent  # nobody holds it any more
        assert parent is not None
        del parent.children[node.edge[:HASH_BYTES]]
        self.blocks -= node.blocks

    def _give_one(self) -> None:
        """The slot whose turn it is drops its least recent node."""
        held = self._giving[0]
        self._giving.rotate(-1)
        if held.recent:
            self._drop_oldest(held)


def _held_below(top: _Node, bit: int) -> Iterator[_Node]:
    """All nodes under a node that a slot holds, from the top down."""
    stack = [top]
    while stack:
        held = [child for child in stack.pop().children.values() if child.holders & bit]
        yield from held
        stack += held
