"""How much goodput a fleet can have at all: the bound beside experiment 4.

A fluid model that knows every request and never waits. A step takes the base, and what sequences,
their context and chunks of prompts add to it. Where a token takes the TPOT target T on average, the
base takes base / T of an instance's time, and the rest is what requests share:

    sum over its requests of (prefill + output tokens x what one sequence adds) <= 1 - base / T

A request whose prefill alone takes longer than the TTFT target there cannot keep it there. Which
requests to keep, and where, is a linear programme. Its dual is searched: whatever prices of the
profiles' seconds are tried, the value is above the optimum, so a search that is not exact still
bounds it.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from shunter_api.modelpool import ModelPool
from shunter_simulator.scenarios import Scenario
from shunter_simulator.virtual.build import engine_settings, true_cost
from shunter_simulator.workloads import Arrival

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


def goodput_bound(scenario: Scenario, arrivals: Sequence[Arrival]) -> dict[str, float]:
    """Requests a second within both targets, at most, and their share, of every request's own pool
    (its model has the pool's name; without one there is one pool)."""
    counted = [one for one in arrivals if one.at_s >= scenario.warmup_s]
    span_s = counted[-1].at_s - counted[0].at_s
    kept = 0.0
    for pool in scenario.model_pools:
        own = [one for one in counted if one.model in ("", pool.name)]
        kept += _pool_bound(scenario, pool, own, span_s) if own else 0.0
    good = {"goodput_per_s": kept / span_s, "attainment": kept / len(counted)}
    return {"requests": len(counted)} | good


def _pool_bound(
    scenario: Scenario, pool: ModelPool, arrivals: Sequence[Arrival], span_s: float
) -> float:
    slo = pool.spec.slo
    assert slo is not None and slo.ttft_s is not None and slo.tpot_s is not None
    prompts = np.array([float(one.prompt_tokens) for one in arrivals])
    outputs = np.array([float(one.output_tokens) for one in arrivals])
    rows, capacity_s = [], []
    for name, count in Counter(name for name, _ in scenario.instances_of(pool)).items():
        rates = true_cost(pool, pool.profile(name), engine_settings(scenario, pool, name)).rates
        share = 1.0 - rates.decode_base_s / slo.tpot_s
        if share <= 0.0:
            continue  # it misses the target even alone
        context_s = rates.decode_s_per_context_token * (prompts + 0.5 * outputs)
        own_s = rates.decode_s_per_sequence + context_s
        prefill_s = prompts * rates.prefill_s_per_token
        prefill_s += 0.5 * prompts**2 * rates.prefill_s_per_pair
        late = rates.prefill_base_s + prefill_s > slo.ttft_s
        rows.append(np.where(late, np.inf, prefill_s + outputs * own_s))
        capacity_s.append(share * count * span_s)
    return most_kept(np.array(rows), np.array(capacity_s)) if rows else 0.0
