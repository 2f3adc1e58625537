"""What the scheduler sees of engines and answers, and what is noted of their load."""

from typing import TypeVar

import numpy as np
import pytest

from shunter_scheduler.domain.events import Event, InstanceObserved, Progress
from shunter_simulator.virtual.testing import check_world, make_world, small_scenario
from shunter_simulator.virtual.watching import MAX_SAMPLES, Sampler
from shunter_simulator.virtual.world import SimulationStuck, World
from shunter_simulator.workloads import Arrival

ONE = [Arrival(0.0, 100, 100)]  # for about 1.13 s


E = TypeVar("E", InstanceObserved, Progress)


def told(world: World, kind: type[E]) -> list[tuple[float, E]]:
    """Runs the world; what of this kind its core was told, with the time."""
    seen: list[tuple[float, E]] = []
    core = world.cell.core
    apply = core.apply

    def listen(event: Event, now: float) -> None:
        if isinstance(event, kind):
            seen.append((now, event))
        apply(event, now)

    setattr(core, "apply", listen)  # noqa: B010
    world.run()
    check_world(world)
    return seen


def test_engines_are_looked_at_every_so_often_and_only_while_they_change() -> None:
    looks = told(make_world(small_scenario(5, observeEvery="100ms"), ONE), InstanceObserved)
    busy = [(now, event) for now, event in looks if event.instance == "chat-h100-0"]
    # Of 12 looks within 1.13 s, those after a new block of 16 tokens; one before and one after.
    assert 8 <= len(busy) <= 12
    assert len(looks) == len(busy) + 4  # the others once, at the start
    first, last = busy[1][1], busy[-1][1]
    assert (first.running, first.kv_capacity_tokens) == (1, 4096)
    assert first.kv_cache_usage > 0
    assert (last.running, last.kv_cache_usage) == (0, 0)
    assert busy[-1][0] < 1.3


def test_a_scheduler_that_sees_each_step_looks_when_it_places() -> None:
    load = [Arrival(0.0, 100, 100), Arrival(0.5, 100, 10)]
    scenario = small_scenario(1, observeEvery="step", moves={"policy": "drain-only"})
    looks = told(make_world(scenario, load), InstanceObserved)
    assert [round(now, 3) for now, _ in looks] == [0.0, 0.5]
    assert looks[-1][1].running == 1


def test_progress_is_reported_every_so_often() -> None:
    reports = told(make_world(small_scenario(1, progressEvery="250ms"), ONE), Progress)
    assert [round(now, 2) for now, _ in reports] == [0.25, 0.5, 0.75, 1.0]
    tokens = [event.output_tokens for _, event in reports]
    assert tokens == sorted(tokens)
    assert tokens[0] == pytest.approx(21, abs=1)


def test_load_is_noted_every_so_often() -> None:
    load = make_world(small_scenario(2, sampleEvery="200ms"), ONE).run().load
    np.testing.assert_allclose(np.diff(load.at_s), 0.2)
    assert load.instances == ("chat-h100-0", "chat-h100-1")
    assert load.running[:, 0].tolist() == [0, 1, 1, 1, 1, 1]
    assert load.running[:, 1].max() == 0
    assert np.all(np.diff(load.kv_usage[1:, 0]) >= 0)
    assert load.in_flight.tolist() == [0, 1, 1, 1, 1, 1]


def test_long_runs_are_noted_less_often() -> None:
    world = make_world(small_scenario(1), [])
    sampler = Sampler(world.agenda, world.fleet, 1.0)
    for second in range(3 * MAX_SAMPLES // 2):
        world.agenda.now = float(second)
        if second % sampler.every_s == 0:
            sampler.sample(second)
    assert sampler.every_s == 2.0
    series = sampler.series()
    assert len(series.at_s) < MAX_SAMPLES
    assert set(np.diff(series.at_s)) == {2.0}


def test_requests_that_nobody_serves_are_turned_away_in_time() -> None:
    fault = {"kind": "dies", "at": "0s", "instance": "chat-h100-0"}
    policy = {"admission": {"queueTimeout": "5s"}}
    results = make_world(small_scenario(1, faults=[fault], policy=policy), ONE).run()
    assert results.text("outcome").tolist() == ["no_instance"]
    assert results.columns["e2e_s"][0] == pytest.approx(5.7, abs=1.0)


def test_a_run_that_gets_nowhere_ends_with_an_error() -> None:
    fault = {"kind": "slow", "at": "0s", "instance": "chat-h100-0", "factor": 1000}
    world = make_world(small_scenario(1, faults=[fault]), [Arrival(0.0, 100, 3000)])
    with pytest.raises(SimulationStuck, match="no request has ended for 4 virtual hours; 1 are op"):
        world.run()


def test_progress_of_the_run_is_told() -> None:
    heard: list[tuple[int, int, int, float]] = []
    world = World(small_scenario(1), 0, ONE, None, lambda *said: heard.append(said))
    world.run()
    assert heard[0] == (0, 1, 0, 0.0)
    assert heard[1] == (0, 1, 1, 1.0)


def test_a_long_pause_between_requests_is_not_being_stuck() -> None:
    load = [Arrival(0.0, 100, 20), Arrival(5 * 3600.0, 100, 3000)]
    world = make_world(small_scenario(1, sampleEvery="1s"), load)
    assert world.run().finished.all()
