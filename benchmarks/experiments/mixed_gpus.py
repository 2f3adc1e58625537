"""Experiment 4: two models on three kinds of GPU."""

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
    bounds,
    dispatch,
    minutes,
    scenario,
    variants,
)
from experiments.intervals import Interval, mean, ratio
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
_RATES = (40, 50, 60, 70, 80, 90, 100)
# The strongest of each kind; which they are, runs of a few seeds with all of them say.
CONTENDERS = {
    name: POLICIES[name] for name in ("llumnix", "queue-kv-prefix", "earliest-completion", OURS)
}


def cells(form: Form) -> list[Cell]:
    rates = form.pick((60, 80), (60, 70, 80, 100), _RATES)
    policies = form.pick(POLICIES, CONTENDERS, POLICIES)
    base = merge(scenario("mixed-gpus"), {"warmup": minutes(1, form)})
    loads = {f"{r}/s": {"workload": {"rate": r, "duration": minutes(10, form)}} for r in rates}
    seeds = range(form.seeds)
    return [
        *variants("mixed-gpus", base, policies, loads, seeds),
        *bounds("mixed-gpus", base, loads, seeds, "goodput"),
    ]


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
            The Azure conversation trace, nineteen in twenty requests for an 8B model, one for a 70B
            model, on 4 H100, 8 A100 and 8 L4 (the 70B model on two H100 and on four A100).
            Goodput: requests a second with TTFT <= 500 ms and TPOT <= 50 ms, and the share of
            all that are so; medians over the seeds. The fleet and so the cost is the same for
            all. `bound`: a fluid model that knows every request and never waits
            (`experiments/goodput_bound.py`).
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


def _peaks(outcomes: Outcomes, policy: str) -> dict[int, float]:
    """The highest goodput over the loads by seed, of the seeds that have run on all of them."""
    if not all(outcomes.seeds(load, policy) for load in outcomes.loads):
        return {}
    seeds = set.intersection(*(set(outcomes.seeds(load, policy)) for load in outcomes.loads))
    columns = [
        outcomes.values(policy, load, "goodput_per_s", sorted(seeds)) for load in outcomes.loads
    ]
    return dict(zip(sorted(seeds), map(max, zip(*columns, strict=True)), strict=True))


def _peak_text(outcomes: Outcomes, policy: str) -> str:
    peaks = _peaks(outcomes, policy)
    return interval(mean(list(peaks.values()))) if peaks else ""


def _targets(outcomes: Outcomes, ready: Sequence[str]) -> list[Target]:
    peaks = {name: _peaks(outcomes, name) for name in ready}
    height = {name: mean(list(found.values())).value for name, found in peaks.items()}
    blind = max((n for n in BLIND if n in ready), key=lambda n: height[n])
    named = max((n for n in ready if n != OURS), key=lambda n: height[n])
    against_blind, against_all = (_paired(peaks[OURS], peaks[name]) for name in (blind, named))
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


def _paired(ours: dict[int, float], theirs: dict[int, float]) -> Interval:
    seeds = sorted(ours.keys() & theirs.keys())
    return ratio([ours[s] for s in seeds], [theirs[s] for s in seeds])


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


EXPERIMENT = Experiment("mixed-gpus", cells, section, share=0.15)
