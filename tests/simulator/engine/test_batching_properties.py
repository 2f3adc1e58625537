"""Whatever comes in whatever order: the books balance, and everybody gets the right tokens."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shunter_simulator.engine import BatchScheduler, SequenceSpec
from shunter_simulator.engine.testing import small_config, step

PROMPTS = st.builds(
    # Few distinct beginnings, so that prefixes are shared.
    lambda family, shared, own: [family] * shared + own,
    st.integers(0, 2),
    st.integers(0, 14),
    st.lists(st.integers(0, 3), min_size=1, max_size=8),
)


class AnyOrder(RuleBasedStateMachine):
    @initialize(
        blocks=st.integers(6, 24),
        watermark=st.sampled_from([0.0, 0.1, 0.3]),
        caching=st.booleans(),
    )
    def start(self, blocks: int, watermark: float, caching: bool) -> None:
        self.batch = BatchScheduler(
            small_config(blocks, max_num_seqs=5, watermark=watermark, enable_prefix_caching=caching)
        )
        self.added = 0
        self.alive: list[str] = []

    @rule(prompt=PROMPTS, max_tokens=st.integers(1, 12), priority=st.integers(0, 2))
    def add(self, prompt: list[int], max_tokens: int, priority: int) -> None:
        if len(prompt) >= self.batch.config.max_tokens_per_sequence:
            return
        request_id = f"r{self.added}"
        self.added += 1
        self.batch.add(SequenceSpec(request_id, prompt, max_tokens, priority=priority))
        self.alive.append(request_id)

    @rule(index=st.integers(0, 50))
    def abort(self, index: int) -> None:
        if self.alive:
            assert self.batch.abort(self.alive.pop(index % len(self.alive)))

    @rule(steps=st.integers(1, 4))
    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            outcome = step(self.batch)
            if outcome is None:
                assert self.batch.stats().running == 0, "a running sequence got no work"
                continue
            for token in outcome.tokens:
                if token.finish_reason:
                    self.alive.remove(token.request_id)

    @rule(index=st.integers(0, 50))
    def abort_in_flight(self, index: int) -> None:
        plan = self.batch.plan()
        if plan is None:
            return
        self.abort(index)
        sampled = {c.request_id: 3 for c in plan.chunks if c.samples}
        for token in self.batch.commit(plan, sampled).tokens:
            if token.finish_reason:
                self.alive.remove(token.request_id)

    @rule(fraction=st.sampled_from([0.3, 0.7, 1.0]))
    def shrink(self, fraction: float) -> None:
        self.batch.shrink_kv(fraction)

    @invariant()
    def books_balance(self) -> None:
        self.batch.check()
        stats = self.batch.stats()
        assert stats.running + stats.waiting == len(self.alive)
        assert stats.running <= self.batch.config.max_num_seqs
        assert stats.prefix_cache_hits_total <= stats.prefix_cache_queries_total

    def teardown(self) -> None:
        if not hasattr(self, "batch"):
            return
        self.batch.shrink_kv(1.0)
        for _ in range(5000):
            if not self.alive:
                break
            self.go_on(1)
        assert not self.alive, "a sequence never ended"
        assert self.batch.stats().kv_blocks_used == 0


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def next_token(tokens: list[int]) -> int:
    """A function of all tokens before it."""
    return hash(tuple(tokens)) % 5


def alone(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class PagedReader:
    """A stand-in for a model: it sees only what the plans wrote into blocks, as attention does."""

    def __init__(self, blocks: int, block_tokens: int) -> None:
        self.slots = [[-1] * block_tokens for _ in range(blocks)]
        self.block_tokens = block_tokens

    def compute(self, start: int, token_ids: list[int], table: list[int]) -> list[int]:
        for position, token in enumerate(token_ids, start):
            block = table[position // self.block_tokens]
            self.slots[block][position % self.block_tokens] = token
        end = start + len(token_ids)
        return [
            self.slots[table[p // self.block_tokens]][p % self.block_tokens] for p in range(end)
        ]


@settings(max_examples=80, deadline=None)
@given(
    requests=st.lists(
        st.tuples(PROMPTS, st.integers(1, 20), st.integers(0, 2), st.integers(0, 6)),
        min_size=1,
        max_size=10,
    ),
    blocks=st.integers(11, 30),
    caching=st.booleans(),
    watermark=st.sampled_from([0.0, 0.2]),
)
def test_tokens_are_those_of_a_run_alone_whatever_is_shared_or_preempted(
    requests: list[tuple[list[int], int, int, int]], blocks: int, caching: bool, watermark: float
) -> None:
    """Tokens are sampled from what lies in the blocks, so a wrong block gives a wrong token."""
    config = small_config(
        blocks, max_num_seqs=4, enable_prefix_caching=caching, watermark=watermark
    )
    batch, reader = BatchScheduler(config), PagedReader(blocks, config.block_tokens)
    answers: dict[str, list[int]] = {}
    arrivals = sorted(enumerate(requests), key=lambda r: r[1][3])
    for number in range(2000):
        while arrivals and arrivals[0][1][3] <= number:
            index, (prompt, max_tokens, priority, _) = arrivals.pop(0)
            batch.add(SequenceSpec(str(index), prompt, max_tokens, priority=priority))
            answers[str(index)] = []
        plan = batch.plan()
        if plan is None:
            if not arrivals:
                break
            continue
        assert sum(len(c.token_ids) for c in plan.chunks) <= config.max_batch_tokens
        sampled = {}
        for c in plan.chunks:
            seen = reader.compute(c.start, list(c.token_ids), list(c.block_table))
            if c.samples:
                sampled[c.request_id] = next_token(seen)
                assert c.produced == len(answers[c.request_id])
        for token in batch.commit(plan, sampled).tokens:
            answers[token.request_id].append(token.token_id)
        batch.check()
    for index, (prompt, max_tokens, _, _) in enumerate(requests):
        assert answers[str(index)] == alone(prompt, max_tokens)


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    watermark=st.sampled_from([0.1, 0.25]),
)
def test_admission_never_goes_below_the_watermark(prompts: list[int], watermark: float) -> None:
    config = small_config(20, max_batch_tokens=64, watermark=watermark)
    batch = BatchScheduler(config)
    for index, length in enumerate(prompts):
        batch.add(SequenceSpec(str(index), [index] * length, 1))
    while plan := batch.plan():
        stats = batch.stats()
        free = stats.kv_blocks_total - stats.kv_blocks_used
        assert stats.running <= 1 or free >= config.watermark_blocks
        batch.commit(plan, {c.request_id: 7 for c in plan.chunks if c.samples})
    assert batch.stats().waiting == 0
