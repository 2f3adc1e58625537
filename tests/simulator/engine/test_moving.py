"""Sequences leave one engine and are taken over by another: no block, place or token is lost."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shunter_simulator.engine import PromptTooLong, SequenceSpec
from shunter_simulator.engine.moving import MovableBatch, NoRoom, NotDecoding
from shunter_simulator.engine.testing import own_tokens, sequence, small_config, step

PROMPT = own_tokens("a", 10)


def decoding(batch: MovableBatch, name: str = "a", prompt: int = 10, max_tokens: int = 30) -> None:
    batch.add(sequence(name, prompt, max_tokens))
    while (view := batch.view(name)) is None or not view.decoding:
        step(batch)


def test_a_frozen_sequence_gets_no_work_and_keeps_its_blocks() -> None:
    batch = MovableBatch(small_config())
    decoding(batch)
    batch.freeze("a")
    batch.freeze("a")
    assert step(batch) is None
    assert batch.stats().kv_blocks_used == 3
    assert batch.thaw("a")
    assert not batch.thaw("a")
    outcome = step(batch)
    assert outcome is not None
    assert [t.request_id for t in outcome.tokens] == ["a"]


def test_only_what_decodes_can_be_frozen() -> None:
    batch = MovableBatch(small_config(max_batch_tokens=8))
    batch.add(sequence("a", 20))
    with pytest.raises(NotDecoding):
        batch.freeze("a")
    step(batch)
    with pytest.raises(NotDecoding):
        batch.freeze("a")
    with pytest.raises(KeyError):
        batch.freeze("b")


def test_an_abort_frees_a_frozen_sequence() -> None:
    batch = MovableBatch(small_config())
    decoding(batch)
    batch.freeze("a")
    assert batch.abort("a")
    batch.check()
    assert batch.stats().kv_blocks_used == 0
    assert not batch.thaw("a")


def test_a_frozen_sequence_finds_its_place_again() -> None:
    batch = MovableBatch(small_config(max_num_seqs=2))
    decoding(batch)
    batch.freeze("a")
    batch.add(sequence("b", 4, 20))
    batch.add(sequence("c", 4, 20))
    step(batch)
    assert batch.stats().running == 1
    batch.thaw("a")
    step(batch)
    assert (batch.stats().running, batch.stats().waiting) == (2, 1)


def test_a_reservation_leaves_the_watermark_and_what_others_wait_for() -> None:
    batch = MovableBatch(small_config(20, watermark=0.25))
    with pytest.raises(NoRoom, match="16 blocks wanted of 20 available"):
        batch.reserve("m", PROMPT, 54)
    batch.add(sequence("b", 12))
    with pytest.raises(NoRoom, match="3 of them awaited"):
        batch.reserve("m", PROMPT, 40)
    batch.reserve("m", PROMPT, 38)
    batch.check()
    assert batch.stats().kv_blocks_used == 12
    assert step(batch) is not None
    assert batch.stats().preemptions_total == 0
    with pytest.raises(NoRoom):
        batch.extend("m", 52)
    assert batch.unreserve("m")
    assert not batch.unreserve("m")
    batch.check()


def test_a_reservation_takes_a_place() -> None:
    batch = MovableBatch(small_config(max_num_seqs=1))
    batch.reserve("m", PROMPT, 0)
    batch.add(sequence("b", 4))
    assert step(batch) is None
    with pytest.raises(NoRoom, match="all 1 places"):
        batch.reserve("n", PROMPT, 0)
    batch.unreserve("m")
    assert step(batch) is not None


def test_what_is_taken_over_goes_on_at_its_last_token() -> None:
    batch = MovableBatch(small_config())
    batch.reserve("m", PROMPT, 40)
    spec = SequenceSpec("x", [*PROMPT, 5, 6], 3, output_offset=2)
    batch.adopt("m", spec)
    plan = batch.plan()
    assert plan is not None
    (chunk,) = plan.chunks
    assert (chunk.start, list(chunk.token_ids), chunk.samples) == (11, [6], True)
    (token,) = batch.commit(plan, {"x": 9}).tokens
    assert token.cached_tokens == 11
    batch.check()
    assert batch.stats().kv_blocks_used == 3  # what was reserved beyond is free again
    view = batch.view("x")
    assert view is not None
    assert view.output_tokens == 3


def test_what_is_taken_over_can_be_found_as_a_prefix() -> None:
    batch = MovableBatch(small_config())
    batch.reserve("m", PROMPT, 0)
    batch.adopt("m", SequenceSpec("x", PROMPT, 3))
    batch.add(sequence("b", [*PROMPT, 1, 2]))
    step(batch)
    assert batch.stats().prefix_cache_hits_total == 8


def test_blocks_that_came_are_told_to_who_follows_the_cache() -> None:
    class Listener:
        def __init__(self) -> None:
            self.tokens: list[int] = []

        def stored(
            self, hashes: Sequence[bytes], parent: bytes | None, tokens: Sequence[int], size: int
        ) -> None:
            self.tokens += tokens

        def removed(self, block_hash: bytes) -> None:
            raise AssertionError("nothing is evicted")

        def step_ended(self) -> None:
            pass

    batch, listener = MovableBatch(small_config()), Listener()
    batch.watch_cache(listener)
    batch.reserve("m", PROMPT, 0)
    assert not listener.tokens
    batch.adopt("m", SequenceSpec("x", PROMPT, 3))
    assert listener.tokens == PROMPT[:8]


def test_a_reservation_shares_what_the_cache_holds() -> None:
    batch = MovableBatch(small_config())
    decoding(batch)
    used = batch.stats().kv_blocks_used
    reservation = batch.reserve("m", [*PROMPT, 3], 0)
    assert reservation.cached_tokens == 8
    assert batch.stats().kv_blocks_used == used + 1
    batch.adopt("m", SequenceSpec("x", [*PROMPT, 3], 3))
    batch.abort("a")
    batch.check()


def test_an_unfit_reservation_is_kept() -> None:
    batch = MovableBatch(small_config())
    batch.reserve("m", PROMPT, 0)
    with pytest.raises(ValueError, match="not for 13 tokens"):
        batch.adopt("m", sequence("x", 14))
    with pytest.raises(PromptTooLong):
        batch.extend("m", 127)
        batch.adopt("m", sequence("x", 128))
    with pytest.raises(KeyError):
        batch.adopt("n", sequence("x", 10))
    batch.check()
    assert batch.view("x") is None
    assert batch.unreserve("m")
    assert batch.stats().kv_blocks_used == 0


def next_token(tokens: list[int]) -> int:
    return hash(tuple(tokens)) % 5


@dataclass
class Engine:
    """Tokens are sampled from what lies in the blocks: a wrong block gives a wrong token."""

    batch: MovableBatch
    slots: list[list[int]] = field(default_factory=list)

    def compute(self) -> dict[str, tuple[int, bool]]:
        plan = self.batch.plan()
        if plan is None:
            return {}
        sampled = {}
        for c in plan.chunks:
            for position, token in enumerate(c.token_ids, c.start):
                self.slots[c.block_table[position // 4]][position % 4] = token
            if c.samples:
                end = c.start + len(c.token_ids)
                seen = [self.slots[c.block_table[p // 4]][p % 4] for p in range(end)]
                sampled[c.request_id] = next_token(seen)
        tokens = self.batch.commit(plan, sampled).tokens
        return {t.request_id: (t.token_id, t.finish_reason is not None) for t in tokens}


@dataclass
class Move:
    name: str
    request: str
    source: int
    copied: int  # tokens
    frozen: bool = False


class AnyMoves(RuleBasedStateMachine):
    """Two engines; requests move to and fro while calls come in any order."""

    @initialize(
        blocks=st.tuples(st.integers(8, 20), st.integers(8, 20)),
        watermark=st.sampled_from([0.0, 0.2]),
        caching=st.booleans(),
    )
    def start(self, blocks: tuple[int, int], watermark: float, caching: bool) -> None:
        self.engines = [
            Engine(
                MovableBatch(
                    small_config(
                        n, max_num_seqs=4, watermark=watermark, enable_prefix_caching=caching
                    )
                ),
                [[-1] * 4 for _ in range(n)],
            )
            for n in blocks
        ]
        self.limit = min(e.batch.config.max_tokens_per_sequence for e in self.engines)
        self.serial = 0
        self.tokens: dict[str, list[int]] = {}  # of what is alive
        self.owner: dict[str, int] = {}
        self.last: dict[str, int] = {}  # its final length
        self.moves: dict[str, Move] = {}

    def next_name(self) -> str:
        self.serial += 1
        return f"r{self.serial}"

    @rule(
        at=st.integers(0, 1),
        family=st.integers(0, 1),
        shared=st.integers(1, 9),
        own=st.lists(st.integers(0, 3), max_size=6),
        answer=st.integers(1, 25),
    )
    def add(self, at: int, family: int, shared: int, own: list[int], answer: int) -> None:
        prompt = [family] * shared + own
        if len(prompt) + answer > self.limit:
            return
        name = self.next_name()
        self.engines[at].batch.add(SequenceSpec(name, prompt, answer))
        self.tokens[name], self.owner[name] = prompt, at
        self.last[name] = len(prompt) + answer

    @rule(at=st.integers(0, 1), steps=st.integers(1, 4))
    def go_on(self, at: int, steps: int) -> None:
        for _ in range(steps):
            for name, (token, ended) in self.engines[at].compute().items():
                assert token == next_token(self.tokens[name]), "a moved sequence went astray"
                self.tokens[name].append(token)
                assert ended == (len(self.tokens[name]) == self.last[name])
                if ended:
                    self.forget(name)

    def forget(self, name: str) -> None:
        del self.tokens[name], self.owner[name]

    @rule(index=st.integers(0, 50))
    def client_leaves(self, index: int) -> None:
        if self.owner:
            name = sorted(self.owner)[index % len(self.owner)]
            assert self.engines[self.owner[name]].batch.abort(name)
            self.forget(name)

    @rule(index=st.integers(0, 50), headroom=st.integers(0, 12))
    def prepare(self, index: int, headroom: int) -> None:
        moving = {m.request for m in self.moves.values()}
        free = sorted(set(self.owner) - moving)
        if not free:
            return
        request = free[index % len(free)]
        source = self.owner[request]
        name = f"m{self.next_name()}"
        batch = self.engines[1 - source].batch
        before = batch.stats()
        try:
            reservation = batch.reserve(name, self.tokens[request], headroom)
        except NoRoom:
            assert batch.stats() == before
            return
        room = before.kv_blocks_total - batch.stats().kv_blocks_used
        assert room >= batch.config.watermark_blocks
        self.moves[name] = Move(name, request, source, reservation.cached_tokens)

    def pick(self, index: int) -> Move | None:
        names = sorted(self.moves)
        return self.moves[names[index % len(names)]] if names else None

    @rule(index=st.integers(0, 50))
    def copy(self, index: int) -> None:
        move = self.pick(index)
        if move is None:
            return
        view = self.engines[move.source].batch.view(move.request)
        if view is None or not view.decoding:
            return
        target = self.engines[1 - move.source]
        try:
            table = target.batch.extend(move.name, view.computed).block_table
        except NoRoom:
            return
        end = view.computed if move.frozen else view.computed // 4 * 4
        for p in range(move.copied, end):
            token = self.engines[move.source].slots[view.block_table[p // 4]][p % 4]
            target.slots[table[p // 4]][p % 4] = token
        move.copied = max(move.copied, end)

    @rule(index=st.integers(0, 50))
    def freeze(self, index: int) -> None:
        move = self.pick(index)
        if move is not None and move.request in self.owner:
            try:
                self.engines[move.source].batch.freeze(move.request)
                move.frozen = True
            except NotDecoding:
                return

    @rule(index=st.integers(0, 50))
    def commit(self, index: int) -> None:
        move = self.pick(index)
        if move is None or not move.frozen or move.request not in self.owner:
            return
        tokens = self.tokens[move.request]
        if move.copied != len(tokens) - 1:
            return
        event("commit")
        left = self.last[move.request] - len(tokens)
        spec = SequenceSpec(move.request, list(tokens), left)
        self.engines[1 - move.source].batch.adopt(move.name, spec)
        assert self.engines[move.source].batch.abort(move.request)
        self.owner[move.request] = 1 - move.source
        del self.moves[move.name]

    @rule(index=st.integers(0, 50), steps=st.integers(0, 6), headroom=st.integers(0, 12))
    def move_in_order(self, index: int, steps: int, headroom: int) -> None:
        self.go_on(0, 1)
        self.go_on(1, 1)
        self.prepare(index, headroom)
        for stage in (self.copy, self.freeze, self.copy, self.commit):
            stage(index)
            self.go_on(index % 2, steps)

    @rule(index=st.integers(0, 50))
    def give_up(self, index: int) -> None:
        """Abort or a lease's end; the source thaws where it is still there."""
        move = self.pick(index)
        if move is not None:
            assert self.engines[1 - move.source].batch.unreserve(move.name)
            thawed = self.engines[move.source].batch.thaw(move.request)
            assert thawed == (move.frozen and move.request in self.owner)
            event("thawed" if thawed else "given up")
            del self.moves[move.name]

    @rule(at=st.integers(0, 1), fraction=st.sampled_from([0.5, 1.0]))
    def shrink(self, at: int, fraction: float) -> None:
        self.engines[at].batch.shrink_kv(fraction)

    @invariant()
    def books_balance(self) -> None:
        for engine in getattr(self, "engines", ()):
            engine.batch.check()

    def teardown(self) -> None:
        if not hasattr(self, "engines"):
            return
        while self.moves:
            self.give_up(0)
        for at, engine in enumerate(self.engines):
            engine.batch.shrink_kv(1.0)
            for _ in range(3000):
                if at not in self.owner.values():
                    break
                self.go_on(at, 1)
        assert not self.owner, "a sequence never ended"
        assert [e.batch.stats().kv_blocks_used for e in self.engines] == [0, 0]


TestAnyMoves = AnyMoves.TestCase
TestAnyMoves.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
