"""The chunked virtual engine does what `BatchScheduler` does, driven step by step."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter_simulator.engine import BatchScheduler, EngineConfig, SequenceSpec, StepPlan
from shunter_simulator.virtual import (
    EngineEvent,
    EngineShape,
    EventKind,
    LinearTimes,
    VirtualEngine,
    VirtualSequence,
)

# No two sums of these meet by chance.
TIMES = LinearTimes(5.61e-3, 0.20283e-3, 5.0917e-8, 35.0071e-3, 0.650311e-3, 0.001500713e-3)
BLOCK_TOKENS = 4
SHARED = 1000  # token ids of shared content begin here


class SteppedEngine:
    """`BatchScheduler` in virtual time: a step begins when the last one ends."""

    def __init__(self, config: EngineConfig) -> None:
        self.batch = BatchScheduler(config)
        self._prompts: dict[str, int] = {}
        self._produced: dict[str, int] = {}
        self._killed: set[str] = set()
        self._plan: StepPlan | None = None
        self._end_s = 0.0
        self._wake_s: float | None = None
        self._events: list[EngineEvent] = []

    def add(self, spec: SequenceSpec, now: float) -> None:
        self.batch.add(spec)
        self._prompts[spec.request_id] = len(spec.token_ids)
        self._produced[spec.request_id] = 0
        self._wake(now)

    def abort(self, request_id: str, now: float) -> None:
        self.batch.abort(request_id)
        self._killed.discard(request_id)
        self._wake(now)

    def advance(self, now: float) -> list[EngineEvent]:
        if self._plan is None and self._wake_s is not None and self._wake_s < now:
            self._begin(self._wake_s)
        while self._plan is not None and self._end_s <= now:
            self._commit(self._plan)
            self._begin(self._end_s)
        events, self._events = self._events, []
        return events

    def next_at(self) -> float | None:
        if self._plan is None and self._wake_s is not None:
            self._begin(self._wake_s)
        return None if self._plan is None else self._end_s

    def _wake(self, now: float) -> None:
        if self._plan is None and self._wake_s is None:
            self._wake_s = now

    def _begin(self, now: float) -> None:
        self._wake_s = None
        self._plan = plan = self.batch.plan()
        self.batch.check()
        if plan is None:
            return
        for request_id in plan.preempted:
            self._killed.add(request_id)
            self._emit(now, "preempted", request_id)
        decodes = [c for c in plan.chunks if len(c.token_ids) == 1 and c.samples]
        prefills = [(len(c.token_ids), c.start) for c in plan.chunks if c not in decodes]
        context = sum(c.start + 1 for c in decodes)
        self._end_s = now + TIMES.mixed_s(prefills, len(decodes), context)

    def _commit(self, plan: StepPlan) -> None:
        # What is generated is like nothing else: it is found again by the sequence itself only.
        sampled = {
            c.request_id: 10_000 + 1000 * c.serial + c.start + len(c.token_ids)
            for c in plan.chunks
            if c.samples
        }
        for token in self.batch.commit(plan, sampled).tokens:
            self._produced[token.request_id] += 1
            if token.cached_tokens is not None:
                self._emit(self._end_s, "first_token", token.request_id, token.cached_tokens)
            if token.request_id in self._killed:
                self._killed.discard(token.request_id)
                self._emit(self._end_s, "resumed", token.request_id)
            if token.finish_reason is not None:
                self._emit(self._end_s, "finished", token.request_id)
        self.batch.check()

    def _emit(self, at_s: float, kind: EventKind, request_id: str, cached_tokens: int = 0) -> None:
        produced = self._produced[request_id]
        self._events.append(EngineEvent(at_s, kind, request_id, produced, cached_tokens))


def tokens_of(serial: int, prompt_tokens: int, shared_blocks: Sequence[int]) -> list[int]:
    """The shared blocks' tokens, then tokens that no other sequence has."""
    tokens = [SHARED + BLOCK_TOKENS * b + i for b in shared_blocks for i in range(BLOCK_TOKENS)]
    own = range(1_000_000 * (serial + 1), 1_000_000 * (serial + 1) + prompt_tokens)
    return tokens + list(own)[: prompt_tokens - len(tokens)]


def same(virtual: list[EngineEvent], stepped: list[EngineEvent]) -> None:
    """Instants may differ by rounding."""

    def bare(events: list[EngineEvent]) -> list[tuple[str, str, int, int]]:
        return [(e.kind, e.request_id, e.produced, e.cached_tokens) for e in events]

    assert bare(virtual) == bare(stepped)
    assert [e.at_s for e in virtual] == pytest.approx([e.at_s for e in stepped], rel=1e-9)


LOADS = st.lists(
    st.tuples(
        st.floats(0.0, 0.4),  # pause before
        st.integers(1, 40),  # prompt tokens
        st.integers(1, 60),  # answer tokens
        st.integers(0, 5),  # shared blocks
        st.sampled_from([0, 0, 0, 1]),  # priority
        st.sampled_from([None, None, None, 0, 1, 2, 5]),  # which earlier one is aborted
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(
    load=LOADS,
    kv_blocks=st.integers(12, 60),
    max_num_seqs=st.integers(1, 8),
    max_batch_tokens=st.integers(8, 24),
    watermark=st.sampled_from([0.0, 0.05, 0.2]),
    caching=st.booleans(),
    yield_steps=st.sampled_from([0, 1, 3]),
)
def test_chunked_batching_is_that_of_the_batch_scheduler(
    load: list[tuple[float, int, int, int, int, int | None]],
    kv_blocks: int,
    max_num_seqs: int,
    max_batch_tokens: int,
    watermark: float,
    caching: bool,
    yield_steps: int,
) -> None:
    config = EngineConfig(
        kv_blocks=kv_blocks,
        context_length=10_000,
        block_tokens=BLOCK_TOKENS,
        max_num_seqs=max_num_seqs,
        max_batch_tokens=max_batch_tokens,
        watermark=watermark,
        enable_prefix_caching=caching,
        yield_steps=yield_steps,
    )
    shape = EngineShape(
        TIMES,
        kv_blocks=kv_blocks,
        block_tokens=BLOCK_TOKENS,
        watermark=watermark,
        max_num_seqs=max_num_seqs,
        max_batch_tokens=max_batch_tokens,
        cache_block_tokens=BLOCK_TOKENS if caching else 0,
        yield_steps=yield_steps,
    )
    stepped, virtual = SteppedEngine(config), VirtualEngine(shape)
    now = 0.0
    for serial, (pause_s, prompt, answer, shared, priority, aborted) in enumerate(load):
        now += pause_s
        same(virtual.advance(now), stepped.advance(now))
        if prompt >= kv_blocks * BLOCK_TOKENS:
            continue
        names = tuple(range(min(shared, prompt // BLOCK_TOKENS)))
        name = f"r{serial}"
        stepped.add(
            SequenceSpec(name, tokens_of(serial, prompt, names), answer, priority=priority), now
        )
        virtual.add(VirtualSequence(name, prompt, answer, blocks=names, priority=priority), now)
        if aborted is not None and aborted < serial:
            stepped.abort(f"r{serial - aborted - 1}", now)
            virtual.abort(f"r{serial - aborted - 1}", now)
        virtual.check()
    while (at := stepped.next_at()) is not None:
        assert virtual.next_at(at) is not None
        same(virtual.advance(at + 1e-9), stepped.advance(at + 1e-9))
        virtual.check()
    assert virtual.next_at(now + 1e6) is None
    assert stepped.batch.stats().preemptions_total == virtual.stats(now + 1e6).preemptions
