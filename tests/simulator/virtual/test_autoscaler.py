"""Instances that come and go with the load."""

from typing import Any

import pytest
from pydantic import ValidationError

from shunter_simulator.virtual.results import Results
from shunter_simulator.virtual.testing import check_world, make_world, small_scenario
from shunter_simulator.workloads import Arrival

RULE = {"freeness": 500, "margin": 100, "start": 1, "interval": "1s", "begin": "1s"}


def run(load: list[Arrival], instances: int = 3, **fields: Any) -> Results:
    rule = {**RULE, **fields.pop("autoscaling", {})}
    world = make_world(small_scenario(instances, autoscaling=rule, **fields), load)
    results = world.run()
    check_world(world)
    assert results.finished.all()
    return results


def seconds(results: Results) -> list[float]:
    return [use.seconds for use in results.instances]


def test_only_those_of_the_start_are_there_before_the_first_look() -> None:
    results = run([Arrival(0.0, 100, 20)] * 4, autoscaling={"start": 2, "begin": "1h"})
    assert set(results.text("instance")) == {"chat-h100-0", "chat-h100-1"}
    assert seconds(results) == [results.duration_s, results.duration_s, 0.0]


def test_instances_come_when_too_little_memory_is_left_per_request() -> None:
    # 4,055 usable tokens, less 200 at most a request: 475 for each of six, 200 or so of twelve.
    rule = {"freeness": 300}
    six = [Arrival(0.0, 100, 100)] * 6
    assert seconds(run(six, autoscaling=rule))[1:] == [0, 0]
    twelve = run([*six, *six, Arrival(2.0, 100, 20)], autoscaling=rule)
    assert seconds(twelve) == [twelve.duration_s, twelve.duration_s - 1.0, 0.0]
    assert twelve.text("instance")[-1] == "chat-h100-1"


def test_what_waits_at_the_scheduler_or_in_an_engine_counts() -> None:
    # Four fit into one engine: the others' prompts are load all the same.
    many = [Arrival(0.0, 900, 100)] * 12
    for queue_in in ("scheduler", "engines"):
        results = run(many, queueIn=queue_in)
        assert min(seconds(results)[1:]) > 0, queue_in


def test_instances_that_are_not_needed_drain_and_come_again_when_they_are() -> None:
    burst = [Arrival(0.0, 100, 300)] * 20
    later = [Arrival(40.0 + 0.1 * n, 100, 300) for n in range(20)]
    results = run([*burst, *later])
    drained, _, stayed = sorted(seconds(results))
    assert drained < 30 and stayed >= results.duration_s - 1.0
    names = results.text("instance")
    assert len(set(names[:20])) == 3 and len(set(names[20:])) >= 2


def test_requests_leave_an_instance_that_drains_only_where_moves_are_on() -> None:
    load = [Arrival(0.0, 100, 1500)] * 2  # one on each of two
    rule = {"start": 2, "freeness": 100}
    moved = run(load, 2, autoscaling=rule)
    stayed = run(load, 2, autoscaling=rule, moves={"policy": "none"})
    assert {move.reason for move in moved.moves} == {"drain"} and not stayed.moves
    assert min(seconds(moved)) < 3 < min(seconds(stayed))


def test_one_that_drains_is_kept_before_an_empty_one_comes() -> None:
    calm = [Arrival(0.0, 100, 1500), Arrival(0.0, 100, 1500)]
    rush = [Arrival(4.0, 100, 300)] * 18
    rule = {"start": 2, "freeness": 200}
    results = run([*calm, *rush], 3, autoscaling=rule, moves={"policy": "none"})
    assert seconds(results)[0] == seconds(results)[1] == results.duration_s


@pytest.mark.parametrize(("utilisation", "instances"), [(0.4, 3), (0.8, 2)])
def test_instances_come_and_go_as_the_scheduler_advises(utilisation: float, instances: int) -> None:
    # One carries the sixteen of a batch.
    rule = {"utilisation": utilisation, "start": 1, "interval": "1s", "begin": "1s"}
    profile = {"name": "h100", "accelerator": "h100", "replicas": {"min": 1, "max": 3}}
    model = {"source": "sim://llama-3.1-8b", "contextLength": 4096}
    pools = [{"name": "chat", "model": model, "profiles": [profile], "slo": {"tpot": "50ms"}}]
    burst = [Arrival(0.0, 100, 100)] * 20
    later = [Arrival(60.0 + n, 100, 20) for n in range(5)]
    world = make_world(small_scenario(3, pools=pools, autoscaling=rule), [*burst, *later])
    results = world.run()
    check_world(world)
    assert results.finished.all()
    used = [held for held in seconds(results) if held > 0]
    assert len(used) == instances
    assert sum(held > 30 for held in used) == 1, "the others leave after the burst"


def test_one_rule_scales() -> None:
    with pytest.raises(ValidationError, match="utilisation is of the scheduler's advice"):
        small_scenario(1, autoscaling={"utilisation": 0.8, "freeness": 100})
