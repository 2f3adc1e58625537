"""Experiment 4: two models on three kinds of GPU, and the cheapest mix."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from experiments.cells import Cell, merge
from experiments.definitions import (
    Experiment,
    Form,
    Overrides,
    Section,
    Target,
    dispatch,
    minutes,
    scenario,
    variants,
)
from experiments.intervals import mean, ratio
from experiments.outcomes import Outcomes
from experiments.page import figure, interval, paragraph, percent, table
from experiments.plots import draw

OURS = "ours"
_NO_MOVES: dict[str, Any] = {"moves": {"policy": "drain-only"}}
BLIND = (
    "round robin",
    "least-requests",
    "power-of-two",
    "prefix-affinity",
    "llumnix",
    "queue-kv-prefix",
)
AWARE = ("earliest-completion", "workload-balanced")
POLICIES: Overrides = {
    **{name: dispatch(name.replace(" ", "-"), **_NO_MOVES) for name in (*BLIND, *AWARE)},
    "ours, no moves": _NO_MOVES,
    OURS: {},
}
_RATES = (40, 50, 60, 70, 80)
_MIX_RATE = 20
# H100, A100 and L4 of the 8B model, by cost.
_MIXES = ((0, 0, 8), (0, 2, 5), (1, 1, 4), (0, 4, 2), (1, 2, 4), (2, 1, 4), (2, 2, 3), (2, 4, 2))
_PRICES = (2.50, 1.60, 0.70)


def cells(form: Form) -> list[Cell]:
    rates = _RATES if form.every_load else _RATES[1:4:2]
    base = merge(scenario("mixed-gpus"), {"warmup": minutes(1, form)})
    loads = {f"{r}/s": {"workload": {"rate": r, "duration": minutes(10, form)}} for r in rates}
    return variants("mixed-gpus", base, POLICIES, loads, range(form.seeds))


def section(outcomes: Outcomes) -> Section:
    shown = [
        [
            policy,
            *(_goodput(outcomes, policy, load) for load in outcomes.loads),
            _peak_text(outcomes, policy),
        ]
        for policy in outcomes.policies
    ]
    lines = [
        paragraph(
            """
            The Azure conversation trace, nine in ten requests for an 8B model, one for a 70B
            model, on 4 H100, 8 A100 and 8 L4 (the 70B model on two H100 and on four A100).
            Goodput: requests a second with TTFT <= 500 ms and TPOT <= 50 ms, and the share of
            all that are so; medians over the seeds. The fleet and so the cost is the same for
            all. What is offered is the bound.
            """
        ),
        "",
        *table(["policy", *outcomes.loads, "best"], shown),
    ]
    ready = [name for name in (*BLIND, *AWARE, OURS) if _peaks(outcomes, name)]
    if OURS not in ready or len(ready) < 2:
        return Section("Mixed GPUs", lines)
    plots = {"mixed-gpus": partial(_plot, outcomes)}
    return Section("Mixed GPUs", lines, _targets(outcomes, ready), plots)


def _goodput(outcomes: Outcomes, policy: str, load: str) -> str:
    if not outcomes.seeds(load, policy):
        return ""
    good, share = (
        outcomes.median(policy, load, metric).value for metric in ("goodput_per_s", "attainment")
    )
    return f"{figure(good)} ({percent(share)})"


def _peaks(outcomes: Outcomes, policy: str) -> list[float]:
    """Per seed the highest goodput over the loads; none where a load is missing."""
    if not all(outcomes.seeds(load, policy) for load in outcomes.loads):
        return []
    seeds = set.intersection(*(set(outcomes.seeds(load, policy)) for load in outcomes.loads))
    columns = [
        outcomes.values(policy, load, "goodput_per_s", sorted(seeds)) for load in outcomes.loads
    ]
    return [max(column) for column in zip(*columns, strict=True)]


def _peak_text(outcomes: Outcomes, policy: str) -> str:
    peaks = _peaks(outcomes, policy)
    return interval(mean(peaks)) if peaks else ""


def _targets(outcomes: Outcomes, ready: Sequence[str]) -> list[Target]:
    peaks = {name: _peaks(outcomes, name) for name in ready}
    blind = max((n for n in BLIND if n in ready), key=lambda n: mean(peaks[n]).value)
    named = max((n for n in ready if n != OURS), key=lambda n: mean(peaks[n]).value)
    against_blind, against_all = ratio(peaks[OURS], peaks[blind]), ratio(peaks[OURS], peaks[named])
    return [
        Target(
            f"best goodput at equal cost at least 1.3x that of the best policy that does not know"
            f" the GPU, `{blind}`: {interval(against_blind)}",
            against_blind.value >= 1.3,
        ),
        Target(
            f"at least 1.05x that of the best of all named, `{named}`: {interval(against_all)}",
            against_all.value >= 1.05,
        ),
    ]


def _plot(outcomes: Outcomes, path: Path) -> None:
    series = {
        policy: [
            (float(load.removesuffix("/s")), outcomes.median(policy, load, "attainment"))
            for load in outcomes.loads
            if outcomes.seeds(load, policy)
        ]
        for policy in outcomes.policies
    }
    draw(path, {"share of requests within both targets": series}, "requests a second", "attainment")


EXPERIMENT = Experiment("mixed-gpus", cells, section)


def mix_cells(form: Form) -> list[Cell]:
    base = scenario("mixed-gpus")
    alone = {
        **base,
        "name": "cheapest-mix",
        "warmup": minutes(1, form),
        "pools": [pool for pool in base["pools"] if pool["name"] == "chat-8b"],
        "engines": {"chat-8b": base["engines"]["chat-8b"]},
    }
    workload = {"rate": _MIX_RATE, "duration": minutes(10, form), "labels": []}
    alone = merge(alone, {"workload": workload})
    mixes = _MIXES if form.every_load else _MIXES[2:7:2]
    loads = {_mix_name(mix): {"instances": {"chat-8b": _counts(mix)}} for mix in mixes}
    few = ("least-requests", "earliest-completion", OURS)
    policies = POLICIES if form.every_load else {name: POLICIES[name] for name in few}
    return variants("cheapest-mix", alone, policies, loads, range(form.seeds))


def _counts(mix: Sequence[int]) -> dict[str, int]:
    return dict(zip(("h100", "a100", "l4"), mix, strict=True))


def _mix_name(mix: Sequence[int]) -> str:
    return "+".join(f"{n} {gpu.upper()}" for gpu, n in _counts(mix).items() if n)


def _price(mix: Sequence[int]) -> float:
    return sum(n * price for n, price in zip(mix, _PRICES, strict=True))


def mix_section(outcomes: Outcomes) -> Section:
    ordered = sorted((mix for mix in _MIXES if _mix_name(mix) in outcomes.loads), key=_price)
    rows = [
        [
            policy,
            *(
                percent(outcomes.median(policy, _mix_name(mix), "attainment").value)
                if outcomes.seeds(_mix_name(mix), policy)
                else ""
                for mix in ordered
            ),
        ]
        for policy in outcomes.policies
    ]
    heads = [f"{_mix_name(mix)}, ${_price(mix):.2f}/h" for mix in ordered]
    lines = [
        paragraph(
            f"""
            The 8B model alone at {_MIX_RATE} requests a second on mixes of GPUs, cheapest
            first: the share of requests within 500 ms and 50 ms, medians over the seeds.
            """
        ),
        "",
        *table(["policy", *heads], rows),
    ]
    cheapest = {policy: _cheapest(outcomes, ordered, policy) for policy in outcomes.policies}
    found = ", ".join(
        f"{policy} {f'${price:.2f}' if price else 'none'}" for policy, price in cheapest.items()
    )
    lines += ["", f"Cheapest mix with 99 % on the median seed, per hour: {found}."]
    return Section("The cheapest mix", lines)


def _cheapest(outcomes: Outcomes, ordered: Sequence[Sequence[int]], policy: str) -> float | None:
    for mix in ordered:
        name = _mix_name(mix)
        if (
            outcomes.seeds(name, policy)
            and outcomes.median(policy, name, "attainment").value >= 0.99
        ):
            return _price(mix)
    return None


MIX = Experiment("cheapest-mix", mix_cells, mix_section)
