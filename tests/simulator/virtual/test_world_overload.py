"""More than the engines can serve: what is served in time stays about what they can."""

import numpy as np
import pytest

from shunter_simulator.virtual.results import Results
from shunter_simulator.virtual.testing import make_world, small_scenario
from shunter_simulator.virtual.world import simulate
from shunter_simulator.workloads import Arrival

TTFT_S = 1.0
POLICY = {
    "classes": [{"name": "standard", "priority": 50, "ttft": "1s"}],
    "admission": {"maxQueued": 100_000, "queueTimeout": "24h"},
}


def run(rate: float) -> Results:
    """Prompts take 110 ms in the mean, answers hardly anything: two engines end about 18/s."""
    load = {"kind": "generated", "rate": rate, "duration": "60s"}
    lengths = {"prompt": "400-1600", "output": "4"}
    engine = {"kvTokens": 60_000, "maxNumSeqs": 64}
    return simulate(small_scenario(2, engine, workload={**load, **lengths}, policy=POLICY), 5)


def in_time_per_s(results: Results) -> float:
    columns = results.columns
    loaded = (columns["arrival_s"] >= 10.0) & (columns["arrival_s"] < 60.0)
    return float(np.count_nonzero(loaded & (columns["ttft_s"] <= TTFT_S))) / 50.0


def test_beyond_capacity_as_many_are_in_time_as_below_it() -> None:
    below, beyond = run(14.0), run(28.0)
    assert beyond.finished.all(), "and the others are served once there is room"
    assert in_time_per_s(beyond) >= in_time_per_s(below)


@pytest.mark.parametrize("queue_in", ["scheduler", "engines"])
def test_requests_beyond_the_engines_batches_wait_at_the_scheduler(queue_in: str) -> None:
    load = [Arrival(0.01 * n, 20, 60) for n in range(40)]
    results = make_world(small_scenario(2, {"maxNumSeqs": 4}, queueIn=queue_in), load).run()
    assert results.finished.all()
    assert results.load.running.max() == 4.0
    assert (results.load.waiting.max() > 1.0) == (queue_in == "engines")
