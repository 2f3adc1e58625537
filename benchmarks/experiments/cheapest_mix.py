"""Experiment 4: what a fleet has to cost for 99 % of the requests to be in time."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

from experiments.cells import Cell, merge
from experiments.definitions import (
    Experiment,
    Form,
    Section,
    Target,
    bounds,
    minutes,
    scenario,
    variants,
)
from experiments.intervals import Interval, mean, median, ratio
from experiments.mixed_gpus import AWARE, BLIND, CONTENDERS, OURS, POLICIES
from experiments.outcomes import Outcomes
from experiments.page import interval, paragraph, percent, table
from experiments.plots import draw

Mix = tuple[int, int, int]
"""H100, A100 and L4."""

GOAL = 0.99
_RATE = 50
# Two H100 are what the 70B model leaves of four; A100 come one by one, L4 four at once.
_LADDER: Sequence[Mix] = tuple((2, a100, 0) for a100 in range(1, 11))
_WITH_L4: Sequence[Mix] = tuple((2, a100, 4) for a100 in range(1, 7))
_LEAST_SHOWN = 1e-4  # of the share that misses, on a log scale
_PRICES = (2.50, 1.60, 0.70)


def cells(form: Form) -> list[Cell]:
    base = scenario("mixed-gpus")
    alone = {
        **base,
        "name": "cheapest-mix",
        "warmup": minutes(1, form),
        "pools": [pool for pool in base["pools"] if pool["name"] == "chat-8b"],
        "engines": {"chat-8b": base["engines"]["chat-8b"]},
    }
    workload = {"rate": _RATE, "duration": minutes(10, form), "labels": []}
    alone = merge(alone, {"workload": workload})
    steps = [mix for mix in _LADDER if mix[1] in (1, 2, 3, 4, 5, 6, 8, 10)]
    mixes = form.pick(steps[2:6], steps, (*_LADDER, *_WITH_L4))
    loads: dict[str, dict[str, Any]] = {
        name_of(mix): {"instances": {"chat-8b": _counts(mix)}} for mix in mixes
    }
    policies = form.pick(CONTENDERS, CONTENDERS, POLICIES)
    seeds = range(form.seeds)
    return [
        *variants("cheapest-mix", alone, policies, loads, seeds),
        *bounds("cheapest-mix", alone, loads, seeds, "goodput"),
    ]


def _counts(mix: Mix) -> dict[str, int]:
    return dict(zip(("h100", "a100", "l4"), mix, strict=True))


def name_of(mix: Mix) -> str:
    return " + ".join(f"{n} {gpu.upper()}" for gpu, n in _counts(mix).items() if n)


def _price(mix: Mix) -> float:
    """Dollars an hour."""
    return sum(n * price for n, price in zip(mix, _PRICES, strict=True))


def section(outcomes: Outcomes) -> Section:
    ladders = [
        [mix for mix in one if name_of(mix) in outcomes.loads] for one in (_LADDER, _WITH_L4)
    ]
    shown = [mix for ladder in ladders for mix in ladder]
    costs = {policy: _costs(outcomes, ladders, policy) for policy in outcomes.policies}
    rows = [
        [
            policy,
            *(_attainment(outcomes, policy, mix) for mix in shown),
            _dollars(list(costs[policy].values())),
        ]
        for policy in outcomes.policies
    ]
    lines = [
        paragraph(
            f"""
            The 8B model alone at {_RATE} requests a second: the share of requests within 500 ms
            and 50 ms, medians over the seeds. Two H100 are given, as the 70B model leaves them; the
            rest is bought. What 99 % costs is read off per seed between two fleets, the share that
            misses on a log scale, and for each policy from the fleets that suit it best; one that
            has 99 % on the cheapest fleet tried counts with that fleet's cost. `bound`: the
            fluid model of mixed GPUs. Two things limit what dispatch can do here: an L4 takes
            64 ms a step with these weights, so that no answer of its keeps 50 ms; and where enough
            H100 are to be had a fleet of nothing else is the cheapest under every policy, with
            nothing left to choose.
            """
        ),
        "",
        *table(
            ["policy", *(f"{name_of(m)}, ${_price(m):.2f}" for m in shown), "99 % costs, $/h"], rows
        ),
    ]
    plots = {"cheapest-mix": partial(_plot, outcomes, ladders)} if shown else {}
    return Section("The cheapest mix", lines, _targets(costs), plots)


def _attainment(outcomes: Outcomes, policy: str, mix: Mix) -> str:
    if not outcomes.seeds(name_of(mix), policy):
        return ""
    return percent(outcomes.median(policy, name_of(mix), "attainment").value)


def _dollars(costs: Sequence[float]) -> str:
    return interval(median(costs)) if costs else "more than any"


def _costs(outcomes: Outcomes, ladders: Sequence[Sequence[Mix]], policy: str) -> dict[int, float]:
    """By seed, of those at which 99 % are reached on one of the ladders."""
    seeds = sorted(
        {seed for (name, _), found in outcomes.rows.items() if name == policy for seed in found}
    )
    found = {}
    for seed in seeds:
        reached = [c for ladder in ladders if (c := _cost(outcomes, ladder, policy, seed))]
        if reached:
            found[seed] = min(reached)
    return found


def _cost(outcomes: Outcomes, ladder: Sequence[Mix], policy: str, seed: int) -> float | None:
    """Dollars an hour at which 99 % are reached and stay so for more; None: at none."""
    points = []
    for mix in ladder:
        outcome = outcomes.rows.get((policy, name_of(mix)), {}).get(seed)
        if outcome is None:
            return None
        metrics = outcome.metrics
        missed = max(1 - metrics["attainment"], 0.5 / metrics["requests"])
        points.append((_price(mix), log(missed)))
    goal = log(1 - GOAL)
    if not points or points[-1][1] > goal:
        return None
    for (less, worse), (more, better) in reversed(list(pairwise(points))):
        if worse > goal:
            return less + (more - less) * (worse - goal) / (worse - better)
    return points[0][0]


def _targets(costs: dict[str, dict[int, float]]) -> list[Target]:
    ours = costs.get(OURS, {})
    if not ours:
        return []
    targets = []
    for least, who, names in (
        (1.3, "the best policy that does not know the GPU", BLIND),
        (1.05, "the best of all named", (*BLIND, *AWARE)),
    ):
        known = {name: costs[name] for name in names if costs.get(name)}
        if not known:
            continue
        best = min(known, key=lambda name: mean(list(known[name].values())).value)
        seeds = sorted(ours.keys() & known[best].keys())
        if seeds:
            found = ratio([known[best][s] for s in seeds], [ours[s] for s in seeds])
            targets.append(_target(least, f"{who}, `{best}`", found))
    return targets


def _target(least: float, who: str, found: Interval) -> Target:
    text = f"99 % at a cost at least {least:g} times lower than with {who}: {interval(found)}"
    return Target(f"{text} ({found.pairs} seeds)", found.value >= least)


def _plot(outcomes: Outcomes, ladders: Sequence[Sequence[Mix]], path: Path) -> None:
    panels = {
        f"{'with' if any(mix[2] for mix in ladder) else 'without'} L4": {
            policy: [
                (_price(mix), _missed(outcomes.median(policy, name_of(mix), "attainment")))
                for mix in ladder
                if outcomes.seeds(name_of(mix), policy)
            ]
            for policy in outcomes.policies
        }
        for ladder in ladders
        if ladder
    }
    draw(path, panels, "dollars an hour", "share that misses", log=True)


def _missed(kept: Interval) -> Interval:
    value, low, high = (max(1 - share, _LEAST_SHOWN) for share in (kept.value, kept.high, kept.low))
    return Interval(value, low, high, kept.pairs)


EXPERIMENT = Experiment("cheapest-mix", cells, section, share=0.15)
