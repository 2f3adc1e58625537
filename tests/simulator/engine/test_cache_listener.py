"""What the prefix cache tells adds up to what it holds, with and without eviction."""

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from shunter_simulator.engine import BatchScheduler, EngineConfig, SequenceSpec

Tokens = tuple[int, ...]


class Listener:
    """By hash: the tokens from the beginning of the prompt on."""

    def __init__(self) -> None:
        self.held: dict[bytes, Tokens] = {}
        self.told: dict[bytes, Tokens] = {}  # what was removed since included
        self.steps = 0

    def stored(
        self, hashes: Sequence[bytes], parent: bytes | None, tokens: Sequence[int], size: int
    ) -> None:
        assert len(tokens) == len(hashes) * size
        before = () if parent is None else self.told[parent]
        for at, block_hash in enumerate(hashes):
            before += tuple(tokens[at * size : (at + 1) * size])
            assert block_hash not in self.held, "told twice"
            self.held[block_hash] = self.told[block_hash] = before

    def removed(self, block_hash: bytes) -> None:
        del self.held[block_hash]

    def step_ended(self) -> None:
        self.steps += 1


prompts = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 30)), min_size=1, max_size=4)


# one sequence goes on from a block that was told for another, and is gone by then
@example([[(2, 8)], [(1, 21)], [(1, 2)], [(2, 8)]], 16)
@given(st.lists(prompts, min_size=1, max_size=8), st.integers(16, 60))
def test_events_add_up_to_the_cache(runs: list[list[tuple[int, int]]], kv_blocks: int) -> None:
    config = EngineConfig(kv_blocks, 8192, block_tokens=4, max_num_seqs=8, max_batch_tokens=48)
    batch, listener = BatchScheduler(config), Listener()
    batch.watch_cache(listener)
    steps = 0
    for number, run in enumerate(runs):
        tokens = tuple(token for token, length in run for _ in range(length))
        tokens = tokens[: kv_blocks * 4 - 12]
        batch.add(SequenceSpec(str(number), tokens, max_tokens=9))
        if number % 3:  # some come one after another, some together
            continue
        while (plan := batch.plan()) is not None:
            batch.commit(plan, {c.request_id: 7 for c in plan.chunks if c.samples})
            steps += 1
            assert set(listener.held) == set(batch._pool._block_of)
            batch.check()
    assert listener.steps == steps > 0
    lengths = {len(tokens) for tokens in listener.held.values()}
    assert all(length % 4 == 0 for length in lengths)
