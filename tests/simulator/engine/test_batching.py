"""One situation a test: what a step holds, who is admitted, who is preempted."""

import pytest

from shunter_simulator.engine import (
    BatchScheduler,
    EngineConfig,
    NewToken,
    PromptTooLong,
    QueueFull,
)
from shunter_simulator.engine.testing import own_tokens, sequence, small_config, step


def shape(batch: BatchScheduler) -> list[tuple[str, int, int, bool]] | None:
    """(request, start, tokens, samples) of each chunk of the next step, which is then committed."""
    plan = batch.plan()
    if plan is None:
        return None
    batch.commit(plan, {c.request_id: 7 for c in plan.chunks if c.samples})
    batch.check()
    return [(c.request_id, c.start, len(c.token_ids), c.samples) for c in plan.chunks]


def test_a_long_prompt_is_computed_in_chunks_of_the_token_budget() -> None:
    batch = BatchScheduler(small_config(max_batch_tokens=16))
    batch.add(sequence("a", 40, max_tokens=2))
    assert [shape(batch) for _ in range(5)] == [
        [("a", 0, 16, False)],
        [("a", 16, 16, False)],
        [("a", 32, 8, True)],
        [("a", 40, 1, True)],
        None,
    ]


def test_running_sequences_get_their_token_before_any_prefill() -> None:
    batch = BatchScheduler(small_config(max_batch_tokens=16))
    batch.add(sequence("a", 8))
    assert shape(batch) == [("a", 0, 8, True)]
    batch.add(sequence("b", 30))
    assert shape(batch) == [("a", 8, 1, True), ("b", 0, 15, False)]
    assert shape(batch) == [("a", 9, 1, True), ("b", 15, 15, True)]


def test_sequences_join_and_leave_between_any_two_steps() -> None:
    batch = BatchScheduler(small_config())
    batch.add(sequence("a", 4, max_tokens=1))
    batch.add(sequence("b", 4, max_tokens=2))
    assert shape(batch) == [("a", 0, 4, True), ("b", 0, 4, True)]
    batch.add(sequence("c", 4, max_tokens=1))
    assert shape(batch) == [("b", 4, 1, True), ("c", 0, 4, True)]
    assert shape(batch) is None
    assert batch.stats().kv_blocks_used == 0


def test_no_more_sequences_run_than_allowed() -> None:
    batch = BatchScheduler(small_config(max_num_seqs=2))
    for name in "abc":
        batch.add(sequence(name, 2))
    assert shape(batch) == [("a", 0, 2, True), ("b", 0, 2, True)]
    assert (batch.stats().running, batch.stats().waiting) == (2, 1)


def test_lower_priority_numbers_are_admitted_first_then_arrival_decides() -> None:
    batch = BatchScheduler(small_config(max_num_seqs=3))
    batch.add(sequence("late", 2, priority=5))
    batch.add(sequence("first", 2, priority=1))
    batch.add(sequence("second", 2, priority=1))
    batch.add(sequence("zeroth", 2, priority=0))
    assert [c[0] for c in shape(batch) or []] == ["zeroth", "first", "second"]


def test_admission_keeps_the_watermark_free_unless_nothing_runs() -> None:
    batch = BatchScheduler(small_config(kv_blocks=10, max_batch_tokens=64, watermark=0.2))
    batch.add(sequence("a", 20))  # 5 blocks
    batch.add(sequence("b", 16))  # 4 more would leave 1, the watermark is 2
    step(batch)
    assert batch.stats().running == 1
    batch.abort("a")
    batch.abort("b")
    batch.add(sequence("alone", 39))  # all 10
    assert shape(batch) == [("alone", 0, 39, True)]


def test_the_last_of_the_lowest_priority_is_preempted_and_comes_back_first() -> None:
    batch = BatchScheduler(small_config(kv_blocks=4, enable_prefix_caching=False))
    batch.add(sequence("old", 4, max_tokens=6))
    batch.add(sequence("new", 7, max_tokens=3))
    batch.add(sequence("next", 4, max_tokens=1))
    # old has 1 block, new 2, next 1; old needs a second one in the next step.
    assert len(shape(batch) or []) == 3
    assert batch.stats().kv_blocks_used == 3
    assert shape(batch) == [("old", 4, 1, True), ("new", 7, 1, True)]
    plan = batch.plan()
    assert plan is not None
    assert plan.preempted == ("new",)
    assert [c.request_id for c in plan.chunks] == ["old"]
    batch.commit(plan, {"old": 7})
    batch.add(sequence("latest", 4, max_tokens=1))
    # new has 7 + 2 tokens and waits for 3 blocks; nobody overtakes it.
    assert shape(batch) == [("old", 6, 1, True)]
    assert shape(batch) == [("old", 7, 1, True)]
    assert shape(batch) == [("old", 8, 1, True)]
    assert shape(batch) == [("new", 0, 9, True), ("latest", 0, 4, True)]
    assert batch.stats().preemptions_total == 1


def test_a_more_urgent_newcomer_is_not_the_one_that_is_preempted() -> None:
    batch = BatchScheduler(small_config(kv_blocks=4))
    batch.add(sequence("batch", 8, max_tokens=8, priority=9))
    step(batch)
    batch.add(sequence("urgent", 4, max_tokens=8, priority=0))
    preempted: list[str] = []
    while batch.stats().running:
        plan = batch.plan()
        assert plan is not None
        preempted += plan.preempted
        batch.commit(plan, {c.request_id: 7 for c in plan.chunks if c.samples})
    assert preempted == ["batch"]


def test_a_known_prefix_is_not_computed_again() -> None:
    batch = BatchScheduler(small_config())
    prompt = list(range(100, 112))  # 3 full blocks
    batch.add(
        sequence("a", prompt, max_tokens=6)
    )  # then 18 tokens, 17 of them with keys and values
    while step(batch):
        pass
    answer = [12, 13, 14, 15, 16, 17]
    batch.add(sequence("b", [*prompt, *answer, 5]))
    plan = batch.plan()
    assert plan is not None
    assert [(c.start, list(c.token_ids)) for c in plan.chunks] == [(16, [16, 17, 5])]
    outcome = batch.commit(plan, {"b": 9})
    assert outcome.tokens[0].cached_tokens == 16
    assert batch.stats().prefix_cache_hits_total == 16
    assert batch.stats().prefix_cache_queries_total == 12 + 19


def test_the_last_token_is_computed_even_when_all_blocks_are_known() -> None:
    batch = BatchScheduler(small_config())
    for name in "ab":
        batch.add(sequence(name, list(range(8)), max_tokens=1))
        assert shape(batch) == [(name, 0 if name == "a" else 4, 8 if name == "a" else 4, True)]


def test_running_sequences_share_the_blocks_of_a_prefix() -> None:
    batch = BatchScheduler(small_config(max_batch_tokens=64))
    prompt = list(range(16))
    batch.add(sequence("a", [*prompt, 1]))
    step(batch)
    batch.add(sequence("b", [*prompt, 2]))
    plan = batch.plan()
    assert plan is not None
    tables = {c.request_id: list(c.block_table) for c in plan.chunks}
    assert tables["a"][:4] == tables["b"][:4]
    assert tables["a"][4] != tables["b"][4]
    assert batch.stats().kv_blocks_used == 6


def test_without_prefix_caching_nothing_is_shared() -> None:
    batch = BatchScheduler(small_config(enable_prefix_caching=False))
    for name in "ab":
        batch.add(sequence(name, list(range(8)), max_tokens=1))
        assert shape(batch) == [(name, 0, 8, True)]
    assert batch.stats().prefix_cache_hits_total == 0


def test_the_least_recently_used_prefix_makes_room() -> None:
    batch = BatchScheduler(small_config(kv_blocks=4))
    for name in ("x", "y", "x", "z"):  # 2 blocks each: z evicts y, which was used before x
        batch.add(sequence(f"{name}{batch.stats().prompt_tokens_total}", own_tokens(name, 7), 1))
        step(batch)
    batch.add(sequence("again", own_tokens("x", 7), 1))
    plan = batch.plan()
    assert plan is not None
    assert plan.chunks[0].start == 4


def test_a_sequence_ends_where_the_context_or_the_memory_ends() -> None:
    batch = BatchScheduler(small_config(kv_blocks=4))  # 16 tokens
    batch.add(sequence("a", 10, max_tokens=1000))
    tokens: list[NewToken] = []
    while outcome := step(batch):
        tokens += outcome.tokens
    assert len(tokens) == 6
    assert tokens[-1].finish_reason == "length"


def test_a_prompt_that_can_never_fit_is_refused_with_the_limit() -> None:
    batch = BatchScheduler(small_config(kv_blocks=4))
    with pytest.raises(PromptTooLong, match="16 tokens; this engine holds 16 tokens"):
        batch.add(sequence("a", 16))


def test_the_waiting_queue_is_bounded() -> None:
    batch = BatchScheduler(small_config(max_waiting=2))
    batch.add(sequence("a", 2))
    batch.add(sequence("b", 2))
    with pytest.raises(QueueFull, match="2 sequences wait"):
        batch.add(sequence("c", 2))
    step(batch)
    batch.add(sequence("c", 2))


@pytest.mark.parametrize("prompt", [[], [1, 2]])
def test_an_empty_prompt_and_a_used_id_are_refused(prompt: list[int]) -> None:
    batch = BatchScheduler(small_config())
    batch.add(sequence("a", 2))
    with pytest.raises(ValueError, match=r"'a'|no tokens"):
        batch.add(sequence("a", prompt))


def test_a_step_in_flight_ignores_what_was_aborted_meanwhile() -> None:
    batch = BatchScheduler(small_config())
    batch.add(sequence("a", 4))
    batch.add(sequence("b", 4))
    plan = batch.plan()
    assert plan is not None
    assert batch.abort("a")
    batch.add(sequence("a", 3))  # another sequence with the same id
    outcome = batch.commit(plan, {"a": 1, "b": 2})
    batch.check()
    assert [t.request_id for t in outcome.tokens] == ["b"]
    assert not batch.abort("c")


def test_the_sampler_ends_a_sequence_for_its_own_reason() -> None:
    batch = BatchScheduler(small_config())
    batch.add(sequence("a", 4, max_tokens=9))
    plan = batch.plan()
    assert plan is not None
    outcome = batch.commit(plan, {"a": 1}, {"a": "stop"})
    assert outcome.tokens[0].finish_reason == "stop"
    assert batch.stats().kv_blocks_used == 0


def test_memory_taken_away_preempts_and_given_back_lets_go_on() -> None:
    batch = BatchScheduler(small_config(kv_blocks=16, max_batch_tokens=64))
    batch.add(sequence("a", 20, max_tokens=3))
    batch.add(sequence("b", 20, max_tokens=3))
    step(batch)
    batch.shrink_kv(0.5)
    plan = batch.plan()
    assert plan is not None
    assert plan.preempted == ("b",)
    batch.commit(plan, {"a": 1})
    assert batch.stats().kv_blocks_total == 8
    batch.shrink_kv(0.1)
    assert step(batch) is None
    assert (batch.stats().running, batch.stats().waiting) == (0, 2)
    batch.shrink_kv(1.0)
    done = []
    while outcome := step(batch):
        done += [t.request_id for t in outcome.tokens if t.finish_reason]
    assert done == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_blocks": 0}, "kv_blocks must be at least 1, not 0"),
        ({"watermark": 1.0}, "watermark must be in"),
        ({"max_batch_tokens": 3}, "max_batch_tokens .3. must be at least max_num_seqs .256."),
        ({"context_length": 1}, "context_length must be at least 2"),
    ],
)
def test_impossible_limits_are_refused(changes: dict[str, float], message: str) -> None:
    values: dict[str, float] = {"kv_blocks": 4, "context_length": 64, **changes}
    with pytest.raises(ValueError, match=message):
        EngineConfig(**values)  # type: ignore[arg-type]


def test_answers_of_lower_priority_stand_still_for_prompts_of_higher_ones() -> None:
    batch = BatchScheduler(small_config(max_batch_tokens=16, kv_blocks=64, yield_steps=2))
    batch.add(sequence("low", 4, priority=1))
    assert shape(batch) == [("low", 0, 4, True)]
    batch.add(sequence("high", 70, priority=0))
    assert [shape(batch) for _ in range(6)] == [
        [("high", 0, 16, False)],
        [("high", 16, 16, False)],
        [("low", 4, 1, True), ("high", 32, 15, False)],  # two in a row, then one for all
        [("high", 47, 16, False)],
        [("high", 63, 7, True)],
        [("high", 70, 1, True), ("low", 5, 1, True)],
    ]


def test_a_prompt_passes_one_of_lower_priority_that_is_computed_in_part() -> None:
    batch = BatchScheduler(small_config(max_batch_tokens=16, kv_blocks=64, yield_steps=1))
    batch.add(sequence("low", 40, priority=1))
    assert shape(batch) == [("low", 0, 16, False)]
    batch.add(sequence("high", 20, priority=0))
    batch.add(sequence("equal", 20, priority=1))
    assert shape(batch) == [("high", 0, 16, False)]
    assert shape(batch) == [("high", 16, 4, True), ("low", 16, 12, False)]


def test_nobody_stands_still_for_a_prompt_that_may_not_be_let_in() -> None:
    batch = BatchScheduler(small_config(max_num_seqs=1, yield_steps=8))
    batch.add(sequence("low", 4, priority=1))
    assert shape(batch) == [("low", 0, 4, True)]
    batch.add(sequence("high", 4, priority=0))
    assert shape(batch) == [("low", 4, 1, True)]
