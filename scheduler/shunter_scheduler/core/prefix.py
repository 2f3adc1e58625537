"""Which instance holds which prompt prefix: a radix tree over chain-hashed blocks.

An edge is a run of packed block hashes (8 bytes each), compared in one go; each node has the bit
set of the slots that hold it. Who holds a node holds all nodes above it, so one walk from the root
answers for all instances. Slots are bits, so `clear` a slot before another instance gets it.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

HASH_BYTES = 8
FEW = 6  # holders up to which one by one is faster than through an index array
MANY = 64  # holders of a first node (a system prompt) from which whole columns are faster


_NO_CHILDREN: dict[bytes, "_Node"] = {}  # of all leaves, never written to: most nodes are leaves


class _Node:
    __slots__ = ("_ones", "_slots", "blocks", "children", "edge", "holders", "parent")

    def __init__(self, edge: bytes, parent: "_Node | None", holders: int) -> None:
        self.edge = edge
        self.blocks = len(edge) // HASH_BYTES
        self.parent = parent
        self.holders = holders
        self.children = _NO_CHILDREN
        self._slots: NDArray[np.intp] | None = None
        self._ones: NDArray[np.float64] | None = None

    def adopt(self, child: "_Node") -> None:
        if self.children is _NO_CHILDREN:
            self.children = {}
        self.children[child.edge[:HASH_BYTES]] = child

    def hold(self, holders: int) -> None:
        self.holders = holders
        self._slots = self._ones = None

    def cut(self, at_bytes: int) -> None:
        """Drops the upper part of the edge."""
        self.edge = self.edge[at_bytes:]
        self.blocks = len(self.edge) // HASH_BYTES

    def slots(self) -> NDArray[np.intp]:
        """The holders as an index array, kept until they change."""
        if self._slots is None:
            self._slots = np.flatnonzero(self._unpacked(self.holders.bit_length() // 8 + 1))
        return self._slots

    def ones(self, count: int) -> NDArray[np.float64]:
        """1.0 for each holder, else 0.0, for `count` slots; kept until the holders change."""
        if self._ones is None or len(self._ones) != count:
            self._ones = self._unpacked(-(-count // 8))[:count].astype(np.float64)
        return self._ones

    def _unpacked(self, size: int) -> NDArray[np.uint8]:
        packed = np.frombuffer(self.holders.to_bytes(size, "little"), dtype=np.uint8)
        return np.unpackbits(packed, bitorder="little")


class Match:
    """Where a walk ended: nodes from the root down with the blocks matched up to each."""

    __slots__ = ("matched_bytes", "partial_bytes", "path")

    def __init__(self) -> None:
        self.path: list[tuple[_Node, int]] = []
        self.matched_bytes = 0
        self.partial_bytes = 0  # of the last node's edge, where it matched in part only


class PrefixIndex:
    """Bounded: each slot by its own capacity, all together by `max_blocks`.

    A slot gives up what it used least recently, a node at a time and with it all that continues it.
    Over `max_blocks` the slots give in turn.
    """

    def __init__(self, max_blocks: int) -> None:
        self.max_blocks = max_blocks
        self.blocks = 0
        self._root = _Node(b"", None, 0)
        self._capacity: dict[int, int] = {}
        self._held: dict[int, int] = {}
        self._recent: dict[int, OrderedDict[_Node, None]] = {}
        self._giving: deque[int] = deque()  # slots, in the order of their turn

    def open(self, slot: int, capacity_blocks: int) -> None:
        """Starts or resizes a slot."""
        self._capacity[slot] = capacity_blocks
        if slot not in self._held:
            self._held[slot] = 0
            self._recent[slot] = OrderedDict()
            self._giving.append(slot)
        self._shrink(slot)

    def clear(self, slot: int) -> None:
        """Forgets all that a slot holds, and the slot."""
        if slot not in self._held:
            return
        recent = self._recent[slot]
        while recent:
            self._drop(next(iter(recent)), slot)
        self._giving.remove(slot)
        for table in (self._capacity, self._held, self._recent):
            del table[slot]

    def held_blocks(self, slot: int) -> int:
        return self._held.get(slot, 0)

    def match(self, hashes: bytes) -> Match:
        """One walk for all slots."""
        found = Match()
        node, at, end = self._root, 0, len(hashes)
        while at < end:
            child = node.children.get(hashes[at : at + HASH_BYTES])
            if child is None:
                break
            edge = child.edge
            if not hashes.startswith(edge, at):
                found.partial_bytes = _common_bytes(edge, hashes, at)
                at += found.partial_bytes
                found.path.append((child, at // HASH_BYTES))
                break
            at += len(edge)
            found.path.append((child, at // HASH_BYTES))
            node = child
        found.matched_bytes = at
        return found

    def fill(
        self, found: Match, tokens_per_block: int, limit: int, out: NDArray[np.float64]
    ) -> None:
        """Writes the tokens held per slot into `out`, at most `limit` each."""
        path = found.path
        if not path or path[0][0].holders.bit_count() < MANY:
            out.fill(0.0)
        for at, (node, blocks) in enumerate(path, 1):
            holders = node.holders
            tokens = blocks * tokens_per_block
            if tokens > limit:
                tokens = limit
            if at == 1 and holders.bit_count() >= MANY:
                np.multiply(node.ones(len(out)), tokens, out=out)
            elif at < len(path) and path[at][0].holders == holders:
                continue  # all of them hold more
            elif holders.bit_count() <= FEW:
                while holders:
                    low = holders & -holders
                    out[low.bit_length() - 1] = tokens
                    holders ^= low
            else:
                out[node.slots()] = tokens

    def insert(self, slot: int, hashes: bytes, found: Match) -> None:
        """Notes that a slot holds `hashes`. `found` is their match, with no change since."""
        capacity = self._capacity[slot]
        if len(hashes) > capacity * HASH_BYTES:
            hashes = hashes[: capacity * HASH_BYTES]
            found = self.match(hashes)
        if not hashes:
            return
        bit = 1 << slot
        path = [node for node, _ in found.path]
        rest = hashes[found.matched_bytes :]
        if found.partial_bytes and (rest or not path[-1].holders & bit):
            path[-1] = self._split(path[-1], found.partial_bytes)
        recent = self._recent[slot]
        held = self._held[slot]
        if rest:
            leaf = self._grow(path[-1] if path else self._root, rest, bit)
            held += leaf.blocks
            recent[leaf] = None
        # From the leaf up, so that what continues a node never outlives it in the order.
        for node in reversed(path):
            if not node.holders & bit:
                node.hold(node.holders | bit)
                held += node.blocks
                recent[node] = None
            else:
                recent.move_to_end(node)
        self._held[slot] = held
        if held > capacity:
            self._shrink(slot)
        while self.blocks > self.max_blocks:
            self._give_one()

    def holders_of(self, hashes: bytes) -> dict[int, int]:
        """Blocks held per slot, of slots that hold any."""
        return {
            slot: blocks for node, blocks in self.match(hashes).path for slot in _bits(node.holders)
        }

    def _grow(self, parent: _Node, edge: bytes, holders: int) -> _Node:
        node = _Node(edge, parent, holders)
        parent.adopt(node)
        self.blocks += node.blocks
        return node

    def _split(self, node: _Node, at_bytes: int) -> _Node:
        """Cuts a node in two and returns the upper part, which is new."""
        assert node.parent is not None
        upper = _Node(node.edge[:at_bytes], node.parent, node.holders)
        node.parent.adopt(upper)
        node.cut(at_bytes)
        node.parent = upper
        upper.adopt(node)
        for slot in _bits(node.holders):
            self._recent[slot][upper] = None
        return upper

    def _shrink(self, slot: int) -> None:
        recent, capacity = self._recent[slot], self._capacity[slot]
        while self._held[slot] > capacity:
            self._drop(next(iter(recent)), slot)

    def _drop(self, top: _Node, slot: int) -> None:
        """Takes a slot off a node and off all that continues it."""
        if top.children:
            for node in list(_held_below(top, 1 << slot)):
                self._take_off(node, slot)
        else:
            self._take_off(top, slot)

    def _take_off(self, node: _Node, slot: int) -> None:
        node.hold(node.holders ^ (1 << slot))
        del self._recent[slot][node]
        self._held[slot] -= node.blocks
        if not node.holders:
            self._unlink(node)

    def _give_one(self) -> None:
        """The slot whose turn it is drops its least recent node."""
        slot = self._giving[0]
        self._giving.rotate(-1)
        recent = self._recent[slot]
        if recent:
            self._drop(next(iter(recent)), slot)

    def _unlink(self, node: _Node) -> None:
        assert node.parent is not None
        del node.parent.children[node.edge[:HASH_BYTES]]
        self.blocks -= node.blocks


def _held_below(top: _Node, bit: int) -> Iterator[_Node]:
    """A node and all nodes under it that a slot holds, from the top down."""
    stack = [top]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(child for child in node.children.values() if child.holders & bit)


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _common_bytes(edge: bytes, hashes: bytes, at: int) -> int:
    """Length of the common prefix of `edge` and `hashes[at:]`, in whole hashes: up to the lowest
    bit in which the two, as little-endian numbers, differ."""
    size = min(len(edge), len(hashes) - at)
    differing = int.from_bytes(edge[:size], "little") ^ int.from_bytes(
        hashes[at : at + size], "little"
    )
    if not differing:
        return size
    first_bit = (differing & -differing).bit_length() - 1
    return first_bit // (8 * HASH_BYTES) * HASH_BYTES
