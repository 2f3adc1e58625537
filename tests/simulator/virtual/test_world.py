"""Invariants of whole worlds: whatever happens, nothing is lost, doubled or left behind."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from shunter_simulator.scenarios import Scenario
from shunter_simulator.virtual.columns import FIELDS
from shunter_simulator.virtual.results import Results
from shunter_simulator.virtual.testing import check_world, make_world, small_scenario
from shunter_simulator.workloads import Arrival

lengths = st.sampled_from([1, 3, 40, 200, 700])
arrivals = st.lists(
    st.builds(
        Arrival,
        st.integers(0, 400).map(lambda n: n / 100),
        lengths,
        lengths,
        st.sampled_from([(), (1,), (1, 2), (3,)]),
        slo_class=st.sampled_from(["", "high", "batch"]),
        tenant=st.sampled_from(["", "a"]),
    ),
    min_size=1,
    max_size=25,
).map(lambda drawn: sorted(drawn, key=lambda a: a.at_s))
faults = st.lists(
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["dies", "drains", "spot-notice", "slow"]),
            "at": st.sampled_from(["0.5s", "1s", "2s", "3s"]),
            # The first instance stays, so that there is always one.
            "instance": st.sampled_from(["chat-h100-1", "chat-h100-2"]),
            "deadline": st.sampled_from(["0.2s", "60s"]),
        },
        optional={"backAfter": st.sampled_from(["0.05s", "1s"])},
    ),
    max_size=3,
)
POLICY = {
    "classes": [
        {"name": "high", "priority": 100, "ttft": "1s"},
        {"name": "batch", "priority": 1, "suspendable": True},
    ],
    "admission": {"queueTimeout": "10m"},
}


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    dispatch = draw(st.sampled_from(["predicted-cost", "round-robin", "least-requests"]))
    return small_scenario(
        3,
        engine={
            "batching": draw(st.sampled_from(["chunked", "prefill-first"])),
            "prefixCaching": draw(st.booleans()),
            "kvTokens": draw(st.sampled_from([2048, 8192])),
        },
        policy={**POLICY, "dispatch": {"policy": dispatch}},
        queueIn=draw(st.sampled_from(["scheduler", "engines"])),
        observeEvery=draw(st.sampled_from(["step", "50ms"])),
        faults=draw(faults),
        moves={
            "transport": draw(st.sampled_from(["kv", "replay"])),
            "policy": draw(st.sampled_from(["drain-only", "llumnix", "predicted-gain"])),
            "bandwidthGbS": draw(st.sampled_from([0.01, 3])),
        },
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenarios(), arrivals)
def test_whatever_fails_every_request_ends_once_and_leaves_nothing(
    scenario: Scenario, load: list[Arrival]
) -> None:
    world = make_world(scenario, load)
    results = world.run()
    check_world(world)
    assert len(results.columns["arrival_s"]) == len(load)
    outcomes = results.text("outcome").tolist()
    assert set(outcomes) <= {"finished"}
    check_rows(results, load)


def check_rows(results: Results, load: list[Arrival]) -> None:
    columns, good = results.columns, results.finished
    assert_array_equal(columns["arrival_s"], [a.at_s for a in load])
    assert_array_equal(
        columns["output_tokens"][good], np.array([a.output_tokens for a in load])[good]
    )
    assert np.all(columns["ttft_s"][good] > 0)
    assert np.all(columns["e2e_s"][good] >= columns["ttft_s"][good])
    assert np.all(columns["stall_s"] <= columns["e2e_s"])
    assert int(columns["moves"].sum()) == sum(move.moved for move in results.moves)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenarios(), arrivals)
def test_the_same_seed_gives_the_same_results(scenario: Scenario, load: list[Arrival]) -> None:
    first, second = (make_world(scenario, load).run() for _ in range(2))
    for name in FIELDS:
        assert_array_equal(first.columns[name], second.columns[name])
    assert first.moves == second.moves
    assert_array_equal(first.load.kv_usage, second.load.kv_usage)


def test_one_request_takes_what_its_steps_and_the_network_take() -> None:
    network = {"scheduler": "1ms", "engine": "2ms"}
    results = make_world(small_scenario(1, network=network), [Arrival(1.0, 100, 3)]).run()
    # There and back to the scheduler, to the engine; a prefill of 10 + 100 * 0.1 ms; back.
    assert results.columns["ttft_s"][0] == pytest.approx(0.002 + 0.002 + 0.020 + 0.002)
    steps_s = 2 * 0.011 + (101 + 102) * 1e-6
    assert results.columns["e2e_s"][0] == pytest.approx(0.026 + steps_s)
    assert results.duration_s == pytest.approx(1.026 + steps_s)
    assert results.dollars == pytest.approx(results.duration_s * 0.001)
