"""How much goodput a fleet can have at all: the bound beside experiment 4.

    PYTHONPATH=benchmarks python -m experiments.goodput_bound [--seeds 10] [--rates 60 80 100]

A fluid model that knows every request and never waits. A step takes the base, and what sequences,
their context and chunks of prompts add to it. Where a token takes the TPOT target T on average, the
base takes base / T of an instance's time, and the rest is what requests share:

    sum over its requests of (prefill + output tokens x what one sequence adds) <= 1 - base / T

A request whose prefill alone takes longer than the TTFT target there cannot keep it there. Which
requests to keep, and where, is a linear programme. Its dual is searched: whatever prices of the
profiles' seconds are tried, the value is above the optimum, so a search that is not exact still
bounds it.
"""

import argparse
from collections.abc import Sequence
from itertools import product

import numpy as np
import yaml
from numpy.typing import NDArray

from experiments.cells import merge
from experiments.definitions import scenario
from experiments.worker import data_folder
from shunter_scheduler.core.costs import profile_cost
from shunter_simulator.scenarios import parse_scenario
from shunter_simulator.scenarios.scenario import ScenarioPool
from shunter_simulator.workloads import Arrival, build_workload

Floats = NDArray[np.float64]
GRID, ROUNDS = 17, 7
PRICES = (-1.0, 3.0)  # requests for a second, powers of ten: from far too cheap to far too dear


def most_kept(seconds: Floats, capacity_s: Floats) -> float:
    """At least the most requests that fit. `seconds`: of each profile (rows) that each request
    (columns) takes, infinite where it misses its target; `capacity_s`: of each profile."""
    takes = np.where(np.isinf(seconds), 1e12, seconds)
    low, high = (np.full(len(capacity_s), power) for power in PRICES)
    best = float(np.isfinite(seconds).any(axis=0).sum())
    for _ in range(ROUNDS):
        axes = [np.linspace(*ends, GRID) for ends in zip(low, high, strict=True)]
        tried = {
            point: _dual(10.0 ** np.array(point), takes, capacity_s) for point in product(*axes)
        }
        point = min(tried, key=tried.__getitem__)
        best, half = min(best, tried[point]), (high - low) / 6
        low, high = np.array(point) - half, np.array(point) + half
    return best


def _dual(prices: Floats, takes: Floats, capacity_s: Floats) -> float:
    gains = 1.0 - (prices[:, None] * takes).min(axis=0)
    return float(np.maximum(gains, 0.0).sum() + prices @ capacity_s)


def pool_bound(pool: ScenarioPool, arrivals: Sequence[Arrival], span_s: float) -> float:
    """Requests of one pool within both targets, at most."""
    slo = pool.slo
    assert slo is not None and slo.ttft_s is not None and slo.tpot_s is not None
    prompts = np.array([float(one.prompt_tokens) for one in arrivals])
    outputs = np.array([float(one.output_tokens) for one in arrivals])
    rows, capacity_s = [], []
    for profile in pool.profiles:
        rates = profile_cost(pool.resource, profile).rates
        share = 1.0 - rates.decode_base_s / slo.tpot_s
        if share <= 0.0:
            continue  # it misses the target even alone
        context_s = rates.decode_s_per_context_token * (prompts + 0.5 * outputs)
        own_s = rates.decode_s_per_sequence + context_s
        prefill_s = prompts * rates.prefill_s_per_token
        prefill_s += 0.5 * prompts**2 * rates.prefill_s_per_pair
        late = rates.prefill_base_s + prefill_s > slo.ttft_s
        rows.append(np.where(late, np.inf, prefill_s + outputs * own_s))
        capacity_s.append(share * profile.replicas.min * span_s)
    return most_kept(np.array(rows), np.array(capacity_s))


def goodput_bound(rate: float, seed: int, duration_s: float, warmup_s: float) -> float:
    """Requests a second of experiment 4's scenario."""
    over = {"workload": {"rate": rate, "duration": f"{duration_s:g}s"}}
    text = yaml.safe_dump(merge(scenario("mixed-gpus"), over))
    parsed = parse_scenario(text, "scenario", _no_files)
    arrivals = build_workload(parsed.workload, seed, data_folder()).arrivals
    counted = [one for one in arrivals if one.at_s >= warmup_s]
    span_s = counted[-1].at_s - counted[0].at_s
    kept = (
        pool_bound(pool, [one for one in counted if one.model == pool.name], span_s)
        for pool in parsed.pools
    )
    return sum(kept) / span_s


def _no_files(name: str) -> str:
    raise ValueError(f"the scenario holds all of itself; {name} would be a file")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fluid bound of experiment 4's goodput.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rates", type=float, nargs="+", default=[60.0, 80.0, 100.0])
    parser.add_argument("--duration-s", type=float, default=90.0)
    parser.add_argument("--warmup-s", type=float, default=9.0)
    options = parser.parse_args()
    for rate in options.rates:
        bounds = [
            goodput_bound(rate, seed, options.duration_s, options.warmup_s)
            for seed in range(options.seeds)
        ]
        median, each = float(np.median(bounds)), " ".join(f"{one:.1f}" for one in bounds)
        print(f"{rate:g}/s: {median:.1f}/s in the median; by seed {each}")


if __name__ == "__main__":
    main()
