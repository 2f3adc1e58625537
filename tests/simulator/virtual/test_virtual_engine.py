"""What a virtual engine does with single sequences, moves, faults and its cache."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter_simulator.engine import PromptTooLong
from shunter_simulator.virtual import (
    EngineEvent,
    EngineShape,
    LinearTimes,
    VirtualEngine,
    VirtualSequence,
)

# A prefill takes 1 s and 0.1 s a token, a decode step 1 s and 0.01 s a token of context.
TIMES = LinearTimes(1.0, 0.1, 0.0, 1.0, 0.0, 0.01)
SHAPE = EngineShape(TIMES, kv_blocks=100, block_tokens=4, max_num_seqs=8, max_batch_tokens=64)
OLD = replace(SHAPE, batching="prefill-first")


def run(engine: VirtualEngine, now: float = 0.0) -> list[EngineEvent]:
    """All that happens until the engine has nothing left to do."""
    events: list[EngineEvent] = []
    while (at := engine.next_at(now)) is not None:
        now = at
        events += engine.advance(now)
    engine.check()
    return events


def brief(events: list[EngineEvent]) -> list[tuple[float, str, str, int]]:
    return [(round(e.at_s, 6), e.kind, e.request_id, e.produced) for e in events]


def test_a_lone_request_takes_a_prefill_and_a_decode_step_per_further_token() -> None:
    engine = VirtualEngine(SHAPE)
    engine.add(VirtualSequence("a", 10, 4), 5.0)

    # 2 s for 10 tokens; then steps over 11, 12 and 13 tokens of context.
    assert brief(run(engine, 5.0)) == [(7.0, "first_token", "a", 1), (10.36, "finished", "a", 4)]
    assert engine.stats(20.0) == (0, 0, 0, 100, 0, 0, 0.0)


def test_chunks_of_a_prompt_go_with_decodes_into_one_step() -> None:
    engine = VirtualEngine(replace(SHAPE, max_batch_tokens=9, max_num_seqs=4))
    engine.add(VirtualSequence("a", 5, 9), 0.0)
    assert engine.next_at(0.0) == 1.5
    engine.add(VirtualSequence("b", 15, 9), 1.0)

    assert brief(engine.advance(1.5)) == [(1.5, "first_token", "a", 1)]
    # Two steps with 8 and 7 tokens of b's prompt, and a's decode over 6 and 7 tokens.
    ends = (1.5 + 1 + 0.8 + 0.06, 1.5 + 1 + 0.8 + 0.06 + 1 + 0.7 + 0.07)
    assert engine.next_at(1.5) == pytest.approx(ends[0])
    assert brief(engine.advance(ends[1] + 1e-6)) == [(round(ends[1], 6), "first_token", "b", 1)]
    assert engine.produced("a", ends[1] + 1e-6) == 3


def test_prefill_first_stops_the_decodes_for_whole_prompts() -> None:
    engine = VirtualEngine(OLD)
    engine.add(VirtualSequence("a", 10, 4), 0.0)
    assert engine.next_at(0.0) == 2.0
    engine.add(VirtualSequence("b", 20, 2), 2.5)
    engine.add(VirtualSequence("c", 10, 1), 2.6)

    assert brief(run(engine, 2.6)) == [
        (2.0, "first_token", "a", 1),
        (7.11, "first_token", "b", 1),  # a's step ends at 3.11; then 1 s and 3 s for 30 tokens
        (7.11, "first_token", "c", 1),
        (7.11, "finished", "c", 1),
        (8.44, "finished", "b", 2),  # a step over 12 and 21 tokens
        (9.57, "finished", "a", 4),
    ]


def test_prefill_first_computes_no_more_than_its_tokens_but_for_one_prompt_alone() -> None:
    engine = VirtualEngine(OLD)
    for name, prompt in (("a", 40), ("b", 30), ("c", 70)):
        engine.add(VirtualSequence(name, prompt, 1), 0.0)

    firsts = [e for e in run(engine) if e.kind == "first_token"]

    assert brief(firsts) == [
        (5.0, "first_token", "a", 1),
        (9.0, "first_token", "b", 1),
        (17.0, "first_token", "c", 1),
    ]


def test_the_last_is_preempted_goes_to_the_head_and_its_loss_is_booked() -> None:
    engine = VirtualEngine(replace(OLD, kv_blocks=10, watermark=0.0))
    for name in "abc":  # three blocks each, of ten; in the end they need seven each
        engine.add(VirtualSequence(name, 12, 16), 0.0)
    events = run(engine)

    kills = [e for e in events if e.kind in ("preempted", "resumed")]
    assert [(e.kind, e.request_id) for e in kills] == [
        ("preempted", "c"),
        ("preempted", "b"),
        ("resumed", "b"),
        ("resumed", "c"),
        ("preempted", "c"),
        ("resumed", "c"),
    ]
    for killed, back in ((kills[1], kills[2]), (kills[0], kills[3]), (kills[4], kills[5])):
        assert back.produced == killed.produced + 1
        tokens = 12 + killed.produced
        loss_s = back.at_s - killed.at_s + (1 + 0.1 * tokens) - (1 + 0.01 * tokens)
        assert back.loss_s == pytest.approx(loss_s)
    stats = engine.stats(1e3)
    assert stats.preemptions == 3
    assert stats.preemption_loss_s == pytest.approx(sum(e.loss_s for e in kills))
    assert {e.request_id: e.produced for e in events if e.kind == "finished"} == dict.fromkeys(
        "abc", 16
    )


def test_what_cannot_be_held_is_refused_and_a_long_answer_ends_with_the_memory() -> None:
    engine = VirtualEngine(replace(SHAPE, kv_blocks=5))
    with pytest.raises(PromptTooLong, match="20 tokens; this engine holds 20"):
        engine.add(VirtualSequence("a", 20, 1), 0.0)
    engine.add(VirtualSequence("b", 18, 10), 0.0)

    assert run(engine)[-1].produced == 2


def test_bad_sequences_are_refused() -> None:
    engine = VirtualEngine(SHAPE)
    engine.add(VirtualSequence("a", 5, 5), 0.0)
    with pytest.raises(ValueError, match="'a' is in use"):
        engine.add(VirtualSequence("a", 5, 5), 0.0)
    with pytest.raises(ValueError, match="5 of 5 answer tokens: nothing to compute"):
        engine.add(VirtualSequence("b", 5, 5, produced=5), 0.0)
    with pytest.raises(ValueError, match=r"needs 2 blocks .* 1 are reserved: call reserve first"):
        engine.reserve("c", 4, 0.0)
        engine.add(VirtualSequence("c", 5, 5, produced=2, resident_tokens=6), 0.0)


def test_generated_tokens_from_elsewhere_are_computed_like_a_prompt() -> None:
    engine = VirtualEngine(SHAPE)
    engine.add(VirtualSequence("a", 10, 32, produced=30), 0.0)

    assert brief(run(engine)) == [(5.0, "first_token", "a", 31), (6.41, "finished", "a", 32)]


def test_an_observation_is_the_one_of_the_step_in_progress() -> None:
    engine = VirtualEngine(replace(OLD, kv_blocks=8))
    engine.add(VirtualSequence("a", 16, 4), 0.0)
    assert engine.next_at(0.0) == 2.6
    engine.add(VirtualSequence("b", 20, 4, produced=1), 0.1)
    engine.add(VirtualSequence("c", 6, 4), 0.1)
    assert engine.stats(0.2)[:5] == (1, 0, 4, 8, 0)
    assert engine.stats(2.7)[:5] == (1, 2, 5, 8, 27)


def test_a_moved_sequence_goes_on_elsewhere_without_a_prefill() -> None:
    source, destination = VirtualEngine(SHAPE), VirtualEngine(SHAPE)
    source.add(VirtualSequence("a", 10, 40), 0.0)
    source.add(VirtualSequence("b", 10, 40), 0.0)
    source.next_at(0.0)
    assert destination.reserve("a", 14, 5.0)
    assert destination.stats(5.0).used_blocks == 4

    source.advance(5.0)
    export = source.export("a", 5.0)
    assert export is not None
    assert export.at_s == source.next_at(5.0)
    assert export.context_tokens == 10 + export.produced - 1
    source.advance(export.at_s)
    assert source.produced("a", 50.0) == export.produced
    used_blocks = source.stats(50.0).used_blocks
    source.release("a", 50.0)
    assert source.stats(50.0).used_blocks == used_blocks - 3
    assert destination.reserve("a", export.context_tokens, 50.0)
    destination.add(
        VirtualSequence("a", 10, 40, export.produced, export.context_tokens), export.at_s + 50
    )

    events = run(destination, 60.0)
    step_s = 1 + 0.01 * (export.context_tokens + 1)
    assert events[0].at_s == pytest.approx(export.at_s + 50 + step_s)
    assert brief(events)[0][1:] == ("first_token", "a", export.produced + 1)
    assert brief(events)[-1][1:] == ("finished", "a", 40)
    assert brief(run(source, 60.0))[-1][1:] == ("finished", "b", 40)
    assert source.stats(1e3).used_blocks == destination.stats(1e3).used_blocks == 0


def test_an_exported_sequence_may_go_on_where_it_was() -> None:
    engine = VirtualEngine(SHAPE)
    engine.add(VirtualSequence("a", 10, 10), 0.0)
    engine.next_at(0.0)
    assert engine.export("a", 1.0) is None  # in its prefill
    assert engine.export("a", 2.5) is not None
    engine.resume("a", 2.6)  # before it has left
    assert engine.export("a", 4.5) is not None
    engine.advance(6.0)
    assert engine.next_at(6.0) is None
    assert engine.produced("a", 6.0) == 4
    engine.resume("a", 7.0)

    events = run(engine, 7.0)
    assert brief(events)[-1] == (round(7 + 6 + sum(range(14, 20)) / 100, 6), "finished", "a", 10)


def test_an_export_is_refused_where_the_step_in_progress_ends_the_sequence() -> None:
    engine = VirtualEngine(SHAPE)
    engine.add(VirtualSequence("a", 10, 2), 0.0)
    engine.next_at(0.0)
    assert engine.export("a", 2.5) is None
    assert engine.export("b", 2.5) is None


@given(
    prompts=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    reserved=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 80)), max_size=12),
    watermark=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_no_reservation_touches_the_watermark(
    prompts: list[int], reserved: list[tuple[int, int]], watermark: float
) -> None:
    shape = replace(SHAPE, watermark=watermark, kv_blocks=60, cache_block_tokens=4)
    engine = VirtualEngine(shape)
    for i, prompt in enumerate(prompts):
        engine.add(VirtualSequence(f"p{i}", prompt, 8, blocks=tuple(range(prompt // 8))), 0.0)
    now = 0.1
    for who, tokens in reserved:
        before = engine.stats(now).used_blocks
        if engine.reserve(f"r{who}", tokens, now):
            assert engine.stats(now).used_blocks in (
                before,
                *range(before, 60 - shape.watermark_blocks + 1),
            )
        else:
            assert engine.stats(now).used_blocks == before
        now += 1.0
        engine.check()
    for who, _ in reserved:
        engine.unreserve(f"r{who}", now)
    run(engine, now)
    assert engine.stats(1e4).used_blocks == 0


def test_a_slow_engine_and_one_that_copies_take_longer_from_the_next_step_on() -> None:
    engine = VirtualEngine(SHAPE)
    engine.add(VirtualSequence("a", 10, 4), 0.0)
    engine.next_at(0.0)
    engine.slow(2.0, 1.0)
    engine.advance(2.0)
    assert engine.next_at(2.0) == pytest.approx(2 + 2 * (1.11 + 1.12 + 1.13))
    engine.slow(1.0, 2.0)
    engine.copy_begins(2.0)
    first_s, second_s = 2 * 1.11, 1.01 * 1.12
    assert engine.next_at(2.0) == pytest.approx(2 + first_s)
    engine.copy_ends(4.5)
    assert brief(run(engine, 4.5))[-1][0] == pytest.approx(2 + first_s + second_s + 1.13)


def test_a_stopped_engine_tells_what_it_had_and_is_empty() -> None:
    engine = VirtualEngine(SHAPE)
    engine.add(VirtualSequence("a", 10, 40), 0.0)
    engine.add(VirtualSequence("b", 10, 40, produced=7), 0.0)
    engine.next_at(0.0)
    engine.advance(6.0)
    assert engine.stop(6.0) == {"a": 2, "b": 9}
    assert engine.next_at(6.0) is None
    assert engine.stats(6.0) == (0, 0, 0, 100, 0, 0, 0.0)


CACHING = replace(SHAPE, cache_block_tokens=8, watermark=0.0)


def cached(engine: VirtualEngine, sequence: VirtualSequence, now: float) -> int:
    """The cached tokens of a sequence that runs alone."""
    engine.add(sequence, now)
    return run(engine, now)[0].cached_tokens


def test_a_prefix_is_found_by_its_units_while_it_runs_and_after() -> None:
    engine = VirtualEngine(CACHING)
    engine.add(VirtualSequence("a", 20, 40, blocks=(1, 2)), 0.0)
    engine.next_at(0.0)
    engine.add(VirtualSequence("b", 30, 40, blocks=(1, 2, 3)), 10.0)
    assert engine.stats(10.0).used_blocks == 7

    events = run(engine, 10.0)
    assert [e.cached_tokens for e in events if e.kind == "first_token"] == [0, 16]
    assert cached(engine, VirtualSequence("c", 30, 4, blocks=(1, 2, 3)), 100.0) == 24
    assert cached(engine, VirtualSequence("d", 30, 4, blocks=(1, 9, 3)), 110.0) == 8
    assert cached(engine, VirtualSequence("e", 16, 4, blocks=(1, 2)), 120.0) == 8  # not all of it


def test_an_answers_units_can_be_shared_when_it_is_done() -> None:
    engine = VirtualEngine(CACHING)
    assert cached(engine, VirtualSequence("a", 12, 20, blocks=(1, 2, 3, 4)), 0.0) == 0
    assert cached(engine, VirtualSequence("b", 40, 4, blocks=(1, 2, 3, 4)), 100.0) == 24


def test_the_longest_unused_content_goes_first() -> None:
    engine = VirtualEngine(replace(CACHING, kv_blocks=10))
    for at, (name, units) in enumerate([("a", (1, 2)), ("b", (3, 4)), ("c", (1, 2))]):
        cached(engine, VirtualSequence(name, 17, 1, blocks=units), 100.0 * at)
    # Ten blocks: two empty, two each of units 4, 3, 2 and 1, the longest unused first.
    cached(engine, VirtualSequence("d", 15, 1, blocks=(7,)), 400.0)
    assert cached(engine, VirtualSequence("e", 17, 1, blocks=(3, 4)), 500.0) == 8
    # Room for e's three new blocks was one empty one and unit 2.
    assert cached(engine, VirtualSequence("f", 17, 1, blocks=(1, 2)), 600.0) == 8
