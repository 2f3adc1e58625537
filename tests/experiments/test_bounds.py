"""Bounds, against what can be worked out by hand and against runs, which may not undercut them."""

import msgspec
import pytest
import yaml
from experiments.bounds import BOUNDS, fluid_e2e_s
from experiments.cells import Cell, Outcome, merge
from experiments.definitions import dispatch, scenario
from experiments.worker import run_cell

from shunter_simulator.scenarios import parse_scenario
from shunter_simulator.workloads import Arrival

ENGINE = {
    "kvTokens": 1600,
    "prefixCaching": False,
    "times": {
        "prefillBaseMs": 10,
        "prefillTokenMs": 1,
        "decodeBaseMs": 40,
        "decodeSequenceMs": 2,
        "decodeContextTokenMs": 0.1,
    },
}


def alone(*arrivals: Arrival, **over: object) -> dict[str, float]:
    fields = merge(scenario("llumnix"), {"engines": {"chat": {"a10": None}}, **over})
    fields["engines"] = {"chat": {"a10": ENGINE}}
    parsed = parse_scenario(yaml.safe_dump(fields), "scenario", lambda name: "")
    return BOUNDS["alone"](parsed, arrivals)


def test_a_request_alone_takes_its_prompt_and_one_step_a_token() -> None:
    found = alone(Arrival(0.0, 100, 5))
    assert found["ttft_mean_s"] == pytest.approx(0.010 + 0.100)
    # four steps over 100, 101, 102 and 103 tokens; the middle is taken for each
    assert found["decode_p99_s"] == pytest.approx(0.040 + 0.002 + 0.0101, abs=1e-4)
    assert found["e2e_mean_s"] == pytest.approx(0.110 + 4 * 0.0521, abs=1e-3)


def test_classes_have_figures_of_their_own_and_a_warm_up_has_none() -> None:
    rows = Arrival(0.0, 1000, 2), Arrival(9.0, 100, 2), Arrival(9.5, 300, 2, slo_class="high")
    found = alone(*rows, warmup="5s")
    assert found["requests"] == 2
    assert found["standard.ttft_mean_s"] == pytest.approx(0.110)
    assert found["high.ttft_mean_s"] == pytest.approx(0.310)
    assert found["ttft_mean_s"] == pytest.approx(0.210)


def test_the_least_engine_time_shares_a_steps_base_by_the_memory_held() -> None:
    """A prompt of 800 tokens holds half the memory, so two of them share a step's base."""
    found = alone(Arrival(0.0, 800, 2))
    assert found["least_engine_s"] == pytest.approx(0.800 + (0.002 + 0.080) + 0.040 / 2)


def test_all_steps_have_the_batch_that_just_uses_up_the_engine_time() -> None:
    found = alone(*[Arrival(0.0, 100, 11)] * 10)
    own_s, base_s = found["fluid_own_s"], 10 * 10 * 0.040
    quick, slow = (fluid_e2e_s(found, own_s + base_s / batch) for batch in (1, 5))
    assert quick == pytest.approx(found["e2e_mean_s"])
    assert slow == pytest.approx(quick + 10 * 4 * 0.002)
    with pytest.raises(ValueError, match="engine seconds are needed"):
        fluid_e2e_s(found, own_s - 1)


@pytest.mark.parametrize("policy", ["round-robin", "predicted-cost"])
@pytest.mark.parametrize("lengths", ["S", "L"])
def test_no_run_is_better_than_its_bound(policy: str, lengths: str) -> None:
    load = {"workload": {"prompts": lengths, "outputs": lengths, "requests": 150, "rate": 40}}
    fields = merge(merge(scenario("llumnix"), load), dispatch(policy))
    run, bound = (figures(Cell("t", "p", "l", 2, fields, way)) for way in ("", "alone"))
    for name in ("ttft_mean_s", "ttft_p99_s", "decode_p99_s", "e2e_mean_s", "standard.e2e_mean_s"):
        assert 0 < bound[name] <= run[name], name
    engine_s = run["instances_mean"] * run["duration_s"]
    assert bound["e2e_mean_s"] <= fluid_e2e_s(bound, engine_s) <= run["e2e_mean_s"]
    assert 0 < bound["least_engine_s"] < engine_s


def test_no_run_keeps_more_than_the_fluid_model() -> None:
    small = {"workload": {"rate": 60, "duration": "20s"}, "warmup": "2s"}
    cells = (
        Cell("t", "p", "l", 2, merge(scenario("mixed-gpus"), small), w) for w in ("", "goodput")
    )
    run, bound = map(figures, cells)
    assert run["requests"] == bound["requests"]
    assert 0.5 < run["attainment"] <= bound["attainment"] <= 1.0
    assert run["goodput_per_s"] <= bound["goodput_per_s"]


def test_an_endless_cache_saves_a_prompt_that_came_before_but_for_a_token() -> None:
    fields = merge(scenario("prefix"), {"warmup": "0s"})
    parsed = parse_scenario(yaml.safe_dump(fields), "scenario", lambda name: "")
    once = Arrival(0.0, 1024, 2, (1, 2))
    first, both = (BOUNDS["alone"](parsed, rows) for rows in ([once], [once, once]))
    assert first["hit_share"] == 0.0 and both["hit_share"] == 0.5
    assert both["ttft_mean_s"] < 0.75 * first["ttft_mean_s"]
    assert both["goodput_per_s"] > 0


def figures(cell: Cell) -> dict[str, float]:
    return msgspec.json.decode(run_cell(cell.text), type=Outcome).metrics
