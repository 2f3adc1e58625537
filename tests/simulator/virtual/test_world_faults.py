"""What faults do to those that run, and what it costs them."""

from typing import Any

import numpy as np

from shunter_simulator.virtual.results import Results
from shunter_simulator.virtual.testing import check_world, make_world, small_scenario
from shunter_simulator.workloads import Arrival

STEADY = [Arrival(0.05 * n, 100, 60) for n in range(40)]


def run(load: list[Arrival], instances: int = 2, **fields: Any) -> Results:
    world = make_world(small_scenario(instances, **fields), load)
    results = world.run()
    check_world(world)
    return results


def test_what_ran_on_a_dead_engine_goes_on_elsewhere_from_the_journal() -> None:
    fault = {"kind": "dies", "at": "1s", "instance": "chat-h100-0"}
    results = run(STEADY, faults=[fault], network={"detection": "200ms"})
    columns = results.columns
    hit = columns["failures"] > 0
    assert hit.sum() >= 5
    assert results.finished.all()
    assert columns["output_tokens"].tolist() == [60] * 40
    assert set(results.text("instance")[hit]) == {"chat-h100-1"}
    began_before = hit & (columns["arrival_s"] + columns["ttft_s"] < 1.0)
    assert began_before.any()
    undisturbed = run(STEADY)
    longer_s = columns["e2e_s"] - undisturbed.columns["e2e_s"]
    assert longer_s[began_before].min() > 0.2
    assert results.instances[0].seconds == 1.0
    assert results.counters == {"fault: dies": 1}


def test_a_drained_engine_ends_early_and_comes_back() -> None:
    fault = {
        "kind": "drains",
        "at": "1s",
        "instance": "chat-h100-0",
        "deadline": "60s",
        "backAfter": "500ms",
    }
    results = run([*STEADY, Arrival(6.0, 100, 60), Arrival(6.0, 100, 60)], faults=[fault])
    assert results.finished.all()
    moved = [move for move in results.moves if move.moved]
    assert moved
    assert {move.reason for move in moved} == {"drain"}
    assert {move.source for move in moved} == {"chat-h100-0"}
    assert set(results.text("instance")[-2:]) == {"chat-h100-0", "chat-h100-1"}
    away_s = results.duration_s - results.instances[0].seconds
    assert 0.5 <= away_s < 5


def test_what_a_spot_notice_leaves_no_time_to_move_is_replayed() -> None:
    fault = {"kind": "spot-notice", "at": "1s", "instance": "chat-h100-0", "deadline": "1ms"}
    results = run(STEADY, faults=[fault], moves={"transport": "replay"})
    assert results.finished.all()
    assert (results.columns["failures"] > 0).sum() >= 5


def test_a_slow_engine_takes_as_many_times_longer_until_it_recovers() -> None:
    fault = {"kind": "slow", "at": "0s", "instance": "chat-h100-0", "factor": 3, "backAfter": "5s"}
    slow = run([Arrival(0.0, 100, 50), Arrival(6.0, 100, 50)], 1, faults=[fault])
    once = run([Arrival(0.0, 100, 50), Arrival(6.0, 100, 50)], 1)
    ratio = slow.columns["e2e_s"] / once.columns["e2e_s"]
    np.testing.assert_allclose(ratio, [3, 1], rtol=0.01)


def test_faults_of_a_pool_hit_different_instances_of_the_profile_by_seed() -> None:
    fault = {"kind": "dies", "at": "0.1s", "pool": "chat", "profile": "h100", "count": 3}
    scenario = small_scenario(8, faults=[fault])
    hit = set()
    for seed in range(6):
        world = make_world(scenario, STEADY, seed=seed)
        assert world.run().finished.all()
        dead = frozenset(slot.name for slot in world.fleet.slots.values() if not slot.there)
        assert len(dead) == 3
        hit.add(dead)
    assert len(hit) > 1


def test_a_client_that_is_turned_away_comes_again_if_told_to() -> None:
    policy = {"admission": {"maxQueued": 1, "queueTimeout": "30s"}}
    load = [Arrival(0.0, 500, 500) for _ in range(60)]
    lost = run(load, 1, policy=policy)
    assert not lost.finished.all()
    assert "overloaded" in set(lost.text("outcome"))
    patient = run(load, 1, policy=policy, rejected={"retries": 100})
    assert patient.finished.all()
    again = patient.columns["retries"] > 0
    assert again.any()
    assert patient.columns["ttft_s"][again].min() > 1.0  # counted from the first try
