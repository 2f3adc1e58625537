"""Moves in virtual time: what each rung costs, and that nothing stays behind."""

from typing import Any

import pytest

from shunter_simulator.virtual.results import Results
from shunter_simulator.virtual.testing import check_world, make_world, small_scenario
from shunter_simulator.workloads import Arrival

DRAIN = {"kind": "drains", "at": "1s", "instance": "chat-h100-0", "deadline": "60s"}


def drained(load: list[Arrival], **fields: Any) -> Results:
    """One request starts on the instance that drains."""
    world = make_world(small_scenario(2, faults=[DRAIN], **fields), load)
    results = world.run()
    check_world(world)
    assert results.finished.all()
    return results


LONG = [Arrival(0.0, 1000, 300)]


@pytest.mark.parametrize("prompt_tokens", [200, 1000, 3000])
def test_a_copy_stops_the_answer_for_its_last_stage_only(prompt_tokens: int) -> None:
    results = drained(
        [Arrival(0.0, prompt_tokens, 300)],
        moves={"bandwidthGbS": 0.5, "downtime": "20ms", "stageOverhead": "0s"},
    )
    (move,) = results.moves
    assert (move.rung, move.moved, move.destination) == ("kv", True, "chat-h100-1")
    # 20 ms, at most 32 tokens of 100 kB at 0.5 GB/s, and a step at the destination.
    assert 0.020 < move.stall_s < 0.020 + 32 * 100_000 / 0.5e9 + 0.016
    assert results.columns["stall_s"][0] == move.stall_s
    assert results.columns["moves"][0] == 1


def test_a_copy_takes_as_long_as_its_bytes() -> None:
    slow = drained(LONG, moves={"bandwidthGbS": 0.1, "stageOverhead": "0s"})
    # 1,000 prompt tokens and those of a second, at 100 kB each, at 0.1 GB/s.
    assert slow.moves[0].at_s - 1.0 == pytest.approx(1.085, abs=0.15)
    fast = drained(LONG, moves={"bandwidthGbS": 10, "stageOverhead": "0s"})
    assert fast.moves[0].at_s - 1.0 < 0.1


def test_copies_from_one_instance_share_its_link() -> None:
    slow = {"bandwidthGbS": 0.1, "stageOverhead": "0s"}
    scenario = small_scenario(3, faults=[DRAIN], moves=slow)
    alone, both = (make_world(scenario, LONG * count).run().moves for count in (1, 6))
    assert (len(alone), len(both)) == (1, 2)  # of six requests two are on the one that drains
    took_s = [moves[-1].at_s - 1.0 for moves in (alone, both)]
    assert took_s[1] == pytest.approx(2 * took_s[0], rel=0.15)


def test_a_replay_warms_the_destination_first() -> None:
    results = drained(LONG, moves={"transport": "replay"})
    (move,) = results.moves
    assert (move.rung, move.moved) == ("replay", True)
    # At most a stretch of 64 tokens and what was generated meanwhile is computed in the stall.
    assert move.stall_s < 0.012 + 0.010 + (64 + 32) * 0.0001 + 0.012  # and a step of the source
    cold = drained(LONG, moves={"transport": "replay"}, engine={"prefixCaching": False})
    assert cold.moves[0].stall_s > 0.110  # all 1,085 tokens


def test_what_has_not_begun_to_answer_starts_elsewhere() -> None:
    load = [Arrival(0.999, 4000, 20)]
    results = drained(load)
    (move,) = results.moves
    assert (move.rung, move.moved, move.stall_s) == ("restart", True, 0.0)
    assert results.columns["stall_s"][0] == 0


def test_without_moves_a_drain_waits_for_the_answers() -> None:
    results = drained(LONG, moves={"policy": "none"})
    assert results.moves == ()
    assert results.text("instance")[0] == "chat-h100-0"


def test_a_full_destination_refuses() -> None:
    load = [Arrival(0.0, 2000, 200), Arrival(0.0, 2000, 1900)]
    results = drained(load, moves={"policy": "llumnix"}, queueIn="engines")
    assert {move.why_not for move in results.moves} >= {"no_room"}


def test_a_copy_that_breaks_before_the_source_stops_goes_by_replay() -> None:
    dies = {"kind": "dies", "at": "1500ms", "instance": "chat-h100-1", "backAfter": "1ms"}
    scenario = small_scenario(2, faults=[DRAIN, dies], moves={"bandwidthGbS": 0.05})
    world = make_world(scenario, [Arrival(0.0, 1000, 900)])
    results = world.run()
    check_world(world)
    (move,) = results.moves
    assert (move.rung, move.moved, move.destination) == ("replay", True, "chat-h100-1")
    assert results.finished.all()


def test_a_copy_that_breaks_is_given_up_where_no_cache_takes_a_replay() -> None:
    dies = {"kind": "dies", "at": "1500ms", "instance": "chat-h100-1", "backAfter": "1ms"}
    slow, plain = {"bandwidthGbS": 0.05}, {"prefixCaching": False}
    scenario = small_scenario(2, faults=[DRAIN, dies], moves=slow, engine=plain)
    results = make_world(scenario, [Arrival(0.0, 1000, 900)]).run()
    first = results.moves[0]
    assert (first.rung, first.moved, first.why_not) == ("kv", False, "connection")


def test_a_source_that_goes_on_after_it_stopped_loses_nothing() -> None:
    """The last stage takes two seconds, in which the destination dies for good."""
    dies = {"kind": "dies", "at": "2s", "instance": "chat-h100-1"}
    moves = {"bandwidthGbS": 10, "stageOverhead": "0s", "downtime": "2s"}
    scenario = small_scenario(2, faults=[DRAIN, dies], moves=moves)
    world = make_world(scenario, LONG)
    results = world.run()
    check_world(world)
    (move,) = results.moves
    assert (move.moved, move.why_not) == (False, "connection")
    assert results.finished.all() and results.text("instance")[0] == "chat-h100-0"
    alone = make_world(small_scenario(1), LONG).run()
    paused_s = results.columns["e2e_s"][0] - alone.columns["e2e_s"][0]
    assert paused_s == pytest.approx(2.0, abs=0.1)


def stall_s(load: list[Arrival] = LONG, **moves: Any) -> float:
    (move,) = drained(load, moves={"bandwidthGbS": 1, **moves}).moves
    assert move.moved
    return move.stall_s


def test_the_downtime_of_a_copy_is_added_to_its_bytes() -> None:
    assert stall_s(downtime="500ms") - stall_s(downtime="0s") == pytest.approx(0.5, abs=0.02)


def test_the_fewer_tokens_are_left_for_the_last_stage_the_shorter_it_is() -> None:
    # At 2 ms a token the first stage takes 2.2 s, in which 195 tokens are generated.
    slow = {"bandwidthGbS": 0.05, "downtime": "0s", "stageOverhead": "0s"}
    longer = [Arrival(0.0, 1000, 900)]
    often = stall_s(longer, **slow, maxStages=16, lastStageTokens=4)
    once = stall_s(longer, **slow, maxStages=2)
    assert often < 0.05
    assert once == pytest.approx(0.4, abs=0.05)


def test_the_overhead_of_a_stage_comes_before_each_but_the_last() -> None:
    slow = drained(LONG, moves={"stageOverhead": "400ms"}).moves[0].at_s
    fast = drained(LONG, moves={"stageOverhead": "0s"}).moves[0].at_s
    # What is generated in 400 ms is more than is left for the last stage: so two of them.
    assert slow - fast == pytest.approx(0.8, abs=0.05)


def test_engines_are_slower_while_they_copy() -> None:
    copying = {"bandwidthGbS": 0.1, "downtime": "0s"}
    normal, slowed = (
        drained(LONG, moves={**copying, "slowdown": share}).columns["e2e_s"][0]
        for share in (0.0, 0.5)
    )
    # Half as fast again for the second or more that the copy takes.
    assert 0.3 < slowed - normal < 1.0
