"""The prefix index against a naive model: for each instance, the set of chains it was given."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_scheduler.core.prefix import HASH_BYTES, PrefixIndex

SLOTS = 5
# Chains over a small alphabet share prefixes often, split nodes, and continue each other.
chains = st.lists(st.integers(0, 2), min_size=0, max_size=12).map(tuple)
Operation = tuple[str, int, tuple[int, ...]]
operations = st.lists(
    st.tuples(
        st.sampled_from(["insert"] * 4 + ["grow"] * 3 + ["cut", "clear"]),
        st.integers(0, SLOTS - 1),
        chains,
    ),
    max_size=60,
)


def pack(chain: tuple[int, ...]) -> bytes:
    """Chained: the hash of a block depends on all blocks before it."""
    hashes = [hash(chain[: i + 1]) & 0xFFFF_FFFF_FFFF_FFFF for i in range(len(chain))]
    return np.array(hashes, dtype="<u8").tobytes()


def tell(naive: "NaiveIndex", operation: Operation) -> None:
    name, slot, chain = operation
    if name in ("insert", "grow"):
        naive.insert(slot, chain)
    elif name == "cut":
        naive.cut(slot, chain)
    else:
        naive.held[slot].clear()


class NaiveIndex:
    def __init__(self) -> None:
        self.held: dict[int, set[tuple[int, ...]]] = {slot: set() for slot in range(SLOTS)}

    def insert(self, slot: int, chain: tuple[int, ...]) -> None:
        self.held[slot].update(chain[: i + 1] for i in range(len(chain)))

    def cut(self, slot: int, chain: tuple[int, ...]) -> None:
        if chain:
            size = len(chain)
            self.held[slot] = {held for held in self.held[slot] if held[:size] != chain}

    def match(self, chain: tuple[int, ...]) -> dict[int, int]:
        found = {}
        for slot, held in self.held.items():
            blocks = 0
            while blocks < len(chain) and chain[: blocks + 1] in held:
                blocks += 1
            if blocks:
                found[slot] = blocks
        return found


def index_of(capacity: int, max_blocks: int = 10_000) -> PrefixIndex:
    index = PrefixIndex(max_blocks)
    for slot in range(SLOTS):
        index.open(slot, capacity)
    return index


def run(index: PrefixIndex, operation: Operation) -> None:
    name, slot, chain = operation
    hashes = pack(chain)
    if name in ("insert", "grow"):
        index.insert(slot, hashes, index.match(hashes), grow=name == "grow")
    elif name == "cut":
        index.cut(slot, hashes)
    else:
        index.clear(slot)
        index.open(slot, index_capacity(index))


def index_capacity(index: PrefixIndex) -> int:
    return max((held.capacity for held in index._held.values()), default=10_000)


@given(operations, st.lists(chains, min_size=1, max_size=10))
def test_equals_the_naive_model_while_nothing_is_evicted(
    steps: list[Operation], probes: list[tuple[int, ...]]
) -> None:
    index, naive = index_of(10_000), NaiveIndex()
    for step in steps:
        run(index, step)
        tell(naive, step)
        for slot in range(SLOTS):
            assert index.held_blocks(slot) == len(naive.held[slot])
    assert index.blocks == len(set().union(*naive.held.values()))
    for probe in (*probes, *(chain for _, _, chain in steps)):
        assert index.holders_of(pack(probe)) == naive.match(probe)


@given(operations, st.integers(1, 15), st.integers(4, 40))
def test_bounds_hold_and_nothing_is_invented(
    steps: list[Operation], capacity: int, max_blocks: int
) -> None:
    index, naive = index_of(capacity, max_blocks), NaiveIndex()
    for step in steps:
        run(index, step)
        tell(naive, step)
        assert index.blocks <= max_blocks
        assert all(index.held_blocks(slot) <= capacity for slot in range(SLOTS))
        for _, _, chain in steps:
            truth = naive.match(chain)
            for slot, blocks in index.holders_of(pack(chain)).items():
                assert blocks <= truth.get(slot, 0)


@given(operations, chains.filter(bool), st.integers(0, SLOTS - 1))
def test_what_was_inserted_last_is_held(
    steps: list[Operation], chain: tuple[int, ...], slot: int
) -> None:
    index = index_of(15)
    for step in steps:
        run(index, step)
    run(index, ("insert", slot, chain))
    assert index.holders_of(pack(chain))[slot] == min(len(chain), 15)


@given(operations)
def test_a_cleared_slot_leaves_nothing_behind(steps: list[Operation]) -> None:
    index = index_of(12)
    for step in steps:
        run(index, step)
    for slot in range(SLOTS):
        index.clear(slot)
        for _, _, chain in steps:
            assert slot not in index.holders_of(pack(chain))
    assert index.blocks == 0
    assert not index._root.children
    assert not index._held and not index._giving


@pytest.mark.parametrize("holders", [1, 3, 200])
def test_fill_writes_tokens_for_every_holder(holders: int) -> None:
    index = PrefixIndex(10_000)
    long, short = pack(tuple(range(10))), pack(tuple(range(4)))
    for slot in range(holders):
        index.open(slot, 100)
        index.insert(slot, short, index.match(short))
    index.insert(0, long, index.match(long))
    out = np.full(256, -1.0)
    index.fill(index.match(long), 64, 600, out)
    assert out[0] == 600.0  # 640 held, but at most the limit counts
    assert (out[1:holders] == 4 * 64).all()
    assert (out[holders:] == 0.0).all()


@given(st.lists(st.tuples(st.integers(0, 99), chains), max_size=80), st.lists(chains, max_size=4))
def test_fill_agrees_with_the_walk_while_holders_come_and_go(
    steps: list[tuple[int, tuple[int, ...]]], probes: list[tuple[int, ...]]
) -> None:
    """What nodes keep of their holders for `fill` follows each insert, split and eviction."""
    index, out = PrefixIndex(10_000), np.full(128, -1.0)
    for slot in range(100):
        index.open(slot, 8)
        index.insert(slot, pack((0, 0, 1)), index.match(pack((0, 0, 1))))
    for slot, chain in steps:
        index.insert(slot, pack(chain), index.match(pack(chain)))
        for probe in (chain, (0, 0, 1, 1), *probes):
            index.fill(index.match(pack(probe)), 64, 300, out)
            expected = np.zeros(128)
            for holder, blocks in index.holders_of(pack(probe)).items():
                expected[holder] = min(64 * blocks, 300)
            assert (out == expected).all()


def test_the_least_recent_prefix_goes_first() -> None:
    index = PrefixIndex(10_000)
    index.open(0, 6)
    first, second, third = (pack((i, i, i)) for i in range(3))
    for hashes in (first, second, first, third):
        index.insert(0, hashes, index.match(hashes))
    assert index.holders_of(second) == {}
    assert index.holders_of(first) == {0: 3}
    assert index.holders_of(third) == {0: 3}


def test_hashes_are_eight_bytes() -> None:
    assert len(pack((1, 2, 3))) == 3 * HASH_BYTES


def test_a_column_is_kept_only_while_many_hold_the_first_node() -> None:
    """At most 16 numbers for each holder, whatever goes, splits and is asked."""
    index, size = PrefixIndex(10_000), 64
    for slot in range(size):
        index.open(slot, 100)
    out = np.empty(size)
    long, short = pack((0, 1, 2, 0)), pack((0, 1, 1))
    for slot in range(8):
        index.insert(slot, long, index.match(long))
    index.fill(index.match(long), 1, 100, out)
    assert out[:8].tolist() == [4.0] * 8 and not out[8:].any()
    (first,) = index._root.children.values()
    assert first._ones is not None
    index.insert(8, short, index.match(short))  # splits the first node
    assert first._ones is None, "it is not the first any more"
    index.fill(index.match(long), 1, 100, out)
    (first,) = index._root.children.values()
    for slot in range(8):
        index.clear(slot)
    assert first._ones is None, "one holder of 64 is few"
    index.fill(index.match(long), 1, 100, out)
    assert out[8] == 2.0 and out.sum() == 2.0


def test_leaves_share_one_empty_table_of_children() -> None:
    index = index_of(100)
    for chain in ((0, 1, 1), (0, 1, 2), (1,)):
        index.insert(0, pack(chain), index.match(pack(chain)))
    upper, leaf = index.match(pack((0, 1, 1))).path
    (other,) = index.match(pack((1,))).path
    assert leaf.children is other.children and len(upper.children) == 2
    assert not leaf.children
