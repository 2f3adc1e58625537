"""KV events of engines against a plain model: which blocks each engine holds, as sets."""

from array import array
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_scheduler.core.kv_chains import KvChains
from shunter_scheduler.core.kv_events import CONFIRM_S, DEFAULT_TENANT, MAX_ROOTS
from shunter_scheduler.core.settings import CoreSettings
from shunter_scheduler.core.testing import CoreHarness, make_instances, only
from shunter_scheduler.domain.decisions import Move
from shunter_scheduler.domain.events import (
    DrainRequested,
    FirstToken,
    KvBlocksRemoved,
    KvBlocksStored,
    KvCleared,
    MoveDone,
)
from shunter_text.blocks import block_hashes, chain_root

INDEX_TOKENS = 8
ENGINES = 3
Tokens = tuple[int, ...]


def harness(block_tokens: int = INDEX_TOKENS, count: int = ENGINES) -> CoreHarness:
    return CoreHarness(make_instances(count), settings=CoreSettings(block_tokens=block_tokens))


def names(tokens: Tokens, size: int) -> list[int]:
    """An engine's own hashes of its full blocks: any digest of the chain."""
    ends = range(size, len(tokens) + 1, size)
    return [
        int.from_bytes(blake2b(repr((size, tokens[:end])).encode(), digest_size=8).digest(), "big")
        for end in ends
    ]


def stored(instance: str, tokens: Tokens, size: int, first: int = 0) -> KvBlocksStored:
    """Blocks of `tokens` from the `first` one on."""
    hashes = names(tokens, size)
    parent = hashes[first - 1] if first else None
    content = array("I", tokens[first * size : len(hashes) * size])
    return KvBlocksStored(instance, tuple(hashes[first:]), parent, content, size)


def chain(core: CoreHarness, tokens: Tokens, tenant: str = DEFAULT_TENANT) -> bytes:
    root = chain_root(core.pools[0].revision, "", tenant)
    return block_hashes(tokens, root, core.core._state.settings.block_tokens)


def held(core: CoreHarness, tokens: Tokens, tenant: str = DEFAULT_TENANT) -> dict[str, int]:
    """Blocks of the index by instance."""
    pool = core.core._state.pools["chat"]
    found = pool.prefix.holders_of(chain(core, tokens, tenant))
    return {pool.at_slot(slot).name: blocks for slot, blocks in found.items()}


class Engine:
    """What it holds: the number of copies of each block, named by its whole chain."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.copies: dict[Tokens, int] = {}

    def blocks(self, tokens: Tokens) -> list[Tokens]:
        return [tokens[:end] for end in range(self.size, len(tokens) + 1, self.size)]

    def index_blocks(self, tokens: Tokens) -> int:
        there = 0
        for block in self.blocks(tokens):
            if not self.copies.get(block):
                break
            there = len(block)
        return there // INDEX_TOKENS


# Runs of one token, so that chains share beginnings, part inside a block and go on each other.
chains = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 6)), min_size=1, max_size=8).map(
    lambda runs: tuple(token for token, length in runs for _ in range(length))
)
steps = st.lists(
    st.tuples(
        st.sampled_from(["store"] * 5 + ["remove"] * 3 + ["clear", "restart", "replace"]),
        st.integers(0, ENGINES - 1),
        chains,
        st.integers(0, 40),
    ),
    max_size=15,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 2, 4, 8]), steps)
def test_the_index_holds_what_engines_said(
    size: int, done: list[tuple[str, int, Tokens, int]]
) -> None:
    core = harness()
    engines = [Engine(size) for _ in range(ENGINES)]
    for kind, number, tokens, any_number in done:
        engine, name = engines[number], core.instances[number].name
        if kind == "store":
            # An engine stores what goes on a block that it knows.
            blocks = engine.blocks(tokens)
            known = [i + 1 for i, block in enumerate(blocks) if engine.copies.get(block)]
            first = [0, *known][any_number % (len(known) + 1)]
            if first < len(blocks):
                core.apply(stored(name, tokens, size, first))
            for block in blocks[first:]:
                engine.copies[block] = engine.copies.get(block, 0) + 1
        elif kind == "remove":
            there = [block for block, copies in engine.copies.items() if copies]
            if there:
                block = there[any_number % len(there)]
                engine.copies[block] -= 1
                core.apply(KvBlocksRemoved(name, (names(block, size)[-1],)))
        else:
            engine.copies.clear()
            if kind == "clear":
                core.apply(KvCleared(name))
            elif kind == "restart":
                core.observe(name, healthy=False)
                core.observe(name)
            else:  # the slot is used by another instance
                core.configure([one for one in core.instances if one.name != name])
                core.configure(make_instances(ENGINES))
                core.observe(name)
        for _, _, probe, _ in done:
            expected = {
                core.instances[i].name: index_blocks
                for i, engine in enumerate(engines)
                if (index_blocks := engine.index_blocks(probe))
            }
            assert held(core, probe) == expected


@pytest.mark.parametrize("size", [1, 16, 32, 64, 128])  # 1: SGLang, as it comes
def test_block_sizes_of_engines_map_to_blocks_of_64(size: int) -> None:
    core = harness(64)
    tokens = tuple(range(256))
    core.apply(stored("chat-h100-1", tokens, size))
    assert held(core, tokens) == {"chat-h100-1": 4}
    per_block = max(1, 64 // size)
    gone = names(tokens, size)[2 * per_block if size <= 64 else 1]
    core.apply(KvBlocksRemoved("chat-h100-1", (gone,)))
    assert held(core, tokens) == {"chat-h100-1": 2}


def test_a_dispatch_sees_what_events_brought() -> None:
    """Prefers the engine that said that it holds the prompt, and predicts what it saves."""
    core = harness(64)
    tokens = tuple(range(1024))
    core.apply(stored("chat-h100-2", tokens, 16))
    hashes = chain(core, tokens)
    assigned = core.assign("r", tenant=DEFAULT_TENANT, block_hashes=hashes, prompt_tokens=1024)
    assert (assigned.instance, assigned.cached_tokens) == ("chat-h100-2", 1023)


def test_answers_continue_the_prompt() -> None:
    core = harness()
    tokens = tuple(range(40))
    core.apply(stored("chat-h100-0", tokens[:20], 4))
    assert held(core, tokens) == {"chat-h100-0": 2}
    for first in range(5, 10):
        core.apply(stored("chat-h100-0", tokens[: (first + 1) * 4], 4, first))
    assert held(core, tokens) == {"chat-h100-0": 5}


def test_what_dispatch_assumed_goes_unless_it_is_confirmed() -> None:
    core = harness(count=1)
    name, seen, assumed = "chat-h100-0", tuple(range(16)), tuple(range(100, 140))
    core.apply(KvCleared(name))
    core.start("first", tenant="t", block_hashes=chain(core, seen, "t"))
    core.apply(stored(name, seen, 4))
    core.now += CONFIRM_S + 0.1
    core.assign("second", tenant="t", block_hashes=chain(core, assumed, "t"))
    assert held(core, seen, "t") == {name: 2}, "events confirmed it"
    core.now += 60.0
    core.apply(FirstToken("second", 1, 60.0, cached_tokens=16))
    core.now += CONFIRM_S - 0.1
    core.apply(KvBlocksRemoved(name, (7,)))
    assert held(core, assumed, "t") == {name: 5}
    core.now += 0.2
    core.apply(KvBlocksRemoved(name, (7,)))
    assert held(core, assumed, "t") == {name: 2}, "as many as the engine reported"


def test_where_events_do_not_map_dispatch_is_believed() -> None:
    """An engine whose tokens are others than the gateway's."""
    core = harness(count=1)
    core.apply(KvCleared("chat-h100-0"))
    core.start("r", tenant="t", block_hashes=chain(core, (1,) * 16, "t"))
    core.apply(stored("chat-h100-0", (2,) * 16, 4))
    core.now += CONFIRM_S + 0.1
    core.apply(KvBlocksRemoved("chat-h100-0", (7,)))
    assert held(core, (1,) * 16, "t") == {"chat-h100-0": 2}


def test_hashes_of_bytes_stay_as_they_were_assumed() -> None:
    core = harness()
    known, text = tuple(range(16)), tuple(range(50, 66))
    core.start("known", tenant="t", block_hashes=chain(core, known, "t"))
    for one in core.instances:
        core.apply(stored(one.name, known, 4))
    hashes = chain(core, text, "t")
    assigned = core.start("text", tenant="t", block_hashes=hashes, prompt_tokens_exact=False)
    core.now += CONFIRM_S + 0.1
    core.apply(KvBlocksRemoved(assigned.instance, (7,)))
    assert held(core, text, "t") == {assigned.instance: 2}


def test_tenants_share_no_prefix_and_each_is_followed() -> None:
    core = harness()
    tokens = tuple(range(16))
    core.apply(KvCleared("chat-h100-0"))
    for tenant in ("a", "b"):
        core.start(tenant, tenant=tenant, block_hashes=chain(core, tokens, tenant))
    core.apply(stored("chat-h100-2", tokens, 4))
    core.apply(KvCleared("chat-h100-2"), stored("chat-h100-2", tokens, 4))
    assert held(core, tokens, "a")["chat-h100-2"] == held(core, tokens, "b")["chat-h100-2"] == 2
    assert not held(core, tokens, "c")
    core.apply(KvBlocksRemoved("chat-h100-2", (names(tokens, 4)[-1],)))
    assert held(core, tokens, "a")["chat-h100-2"] == held(core, tokens, "b")["chat-h100-2"] == 1


def test_roots_are_bounded() -> None:
    core = harness()
    core.apply(KvCleared("chat-h100-0"))
    follower = core.core._state.pools["chat"].kv
    assert follower is not None
    roots = [follower.root_of(f"tenant-{i}") for i in range(2 * MAX_ROOTS)]
    assert roots.count(None) == MAX_ROOTS + 1, "the default tenant has one"


def test_more_blocks_than_the_engine_has_start_it_anew() -> None:
    core = harness()
    core.observe("chat-h100-0", kv_capacity_tokens=64)
    for i in range(8):
        tokens = (i,) * 32
        core.apply(stored("chat-h100-0", tokens, 8))
    chains_of = core.core._state.pools["chat"].kv
    assert chains_of is not None
    assert all(len(one) <= 17 for one in chains_of._chains.values())
    pool = core.core._state.pools["chat"]
    assert pool.prefix.held_blocks(0) <= 8


def test_an_event_that_does_not_add_up_is_refused() -> None:
    core = harness()
    bad = KvBlocksStored("chat-h100-0", (1, 2), None, array("I", range(9)), 8)
    with pytest.raises(ValueError, match="2 KV blocks of 8 tokens from chat-h100-0, but 9"):
        core.apply(bad)


def test_unknown_instances_parents_and_blocks_are_nothing() -> None:
    core = harness()
    tokens = tuple(range(32))
    core.apply(stored("nobody", tokens, 4), stored("chat-h100-0", tokens, 4, 3))
    core.apply(KvBlocksRemoved("chat-h100-0", (1, 2, 3)), KvBlocksRemoved("nobody", (1,)))
    assert held(core, tokens) == {}


def test_hits_are_counted_beside_what_was_predicted() -> None:
    core = harness(64)
    tokens = tuple(range(640))
    hashes = chain(core, tokens)
    for name, cached in (("cold", 0), ("warm", 512)):
        core.assign(name, tenant=DEFAULT_TENANT, block_hashes=hashes, prompt_tokens=640)
        core.apply(FirstToken(name, 1, 0.1, cached_tokens=cached))
    hits = core.core._state.pools["chat"].hits
    assert (hits.prompt_tokens, hits.predicted_tokens, hits.hit_tokens) == (1280, 639, 512)
    assert hits.error_tokens == 127


def test_the_destination_of_a_move_holds_the_prompt_then() -> None:
    core = harness(64)
    tokens = tuple(range(640))
    source = core.start("r", block_hashes=chain(core, tokens), prompt_tokens=640).instance
    assert held(core, tokens) == {source: 10}
    (move,) = only(Move, core.after(DrainRequested(source, 100.0)))
    core.apply(MoveDone("r", 2, move.destination, moved=True, rung=move.rung))
    assert held(core, tokens) == {source: 10, move.destination: 10}


def test_many_may_continue_one_block_and_go_again() -> None:
    chains = KvChains([1], 64)
    chains.max_blocks = 100
    tokens = array("I", range(64))
    chains.store([1], None, tokens, 64)
    for block_hash in range(2, 40):
        chains.store([block_hash], 1, tokens, 64)
    assert len(chains.remove(1)) == 1
    assert len(chains) == 39, "it links those that continue it"
    assert len(chains.store([1], None, tokens, 64)) == 38, "all are there again"
    for block_hash in range(1, 40):
        chains.remove(block_hash)
    assert len(chains) == 0
