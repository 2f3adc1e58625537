"""Experiment 2: multi-stage text-to-SQL workflows on unlike GPUs."""

from collections.abc import Mapping, Sequence
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
    scenario,
    variants,
)
from experiments.outcomes import Outcomes
from experiments.page import figure, interval, paragraph, table
from experiments.plots import draw

OURS, ROBIN, EARLIEST, TUNED = "ours", "round robin", "earliest-completion", "workload-balanced"
ALONE = "alone (bound)"
_NO_MOVES: Mapping[str, Any] = {"moves": {"policy": "drain-only"}}
POLICIES: Overrides = {
    ROBIN: dispatch("round-robin", queueIn="engines", **_NO_MOVES),
    "least-requests": dispatch("least-requests", **_NO_MOVES),
    EARLIEST: dispatch(EARLIEST, **_NO_MOVES),
    TUNED: dispatch(TUNED, **_NO_MOVES),
    OURS: {},
}
# What tuning is held against: `workload-balanced` with one alpha all the time.
FIXED = {
    f"alpha {alpha:g}": dispatch(TUNED, scheduler={"alpha": alpha}, **_NO_MOVES)
    for alpha in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
}
BASELINES = (ROBIN, "least-requests", EARLIEST, TUNED)
_TRACES = ("trace1", "trace2")
_RATES = (0.04, 0.06, 0.08, 0.1)
_WITH_H100_RATES = (0.08, 0.12, 0.16)
_WITH_H100: Mapping[str, Any] = {"instances": {"sql": {"h100": 1}}}
METRIC = "workflow_p95_s"


def _loads(form: Form) -> dict[str, dict[str, Any]]:
    queries = {"queries": round(form.length(360))}
    loads = {}
    for trace in form.pick(_TRACES[:1], _TRACES, _TRACES):
        for rate in form.pick(_RATES[:3:2], _RATES[:3:2], _RATES):
            loads[f"{trace} {rate:g}/s"] = {"workload": {**queries, "trace": trace, "rate": rate}}
        for rate in form.pick(_WITH_H100_RATES[1:2], _WITH_H100_RATES[1:2], _WITH_H100_RATES):
            workload = {"workload": {**queries, "trace": trace, "rate": rate}}
            loads[f"{trace} +H100 {rate:g}/s"] = merge(_WITH_H100, workload)
    return loads


def _alone(gpu: str) -> dict[str, Any]:
    """No query waits for another: arrivals hours apart, on the fastest GPUs of the cluster, as many
    as a stage has calls. What is left is the longest path."""
    counts = dict.fromkeys(("a100", "a6000", "l40"), 0) | {gpu: 6}
    return {"workload": {"rate": 0.0002}, "instances": {"sql": counts}}


def cells(form: Form) -> list[Cell]:
    base, loads = scenario("hexgen"), _loads(form)
    seeds = range(form.seeds)
    some = {name: loads[name] for name in list(loads) if _TRACES[0] in name}
    tuned = form.pick({}, some, loads)
    return [
        *variants("hexgen", base, POLICIES, loads, seeds),
        *variants("hexgen", base, FIXED, tuned, seeds),
        *_bounds(base, loads, seeds),
    ]


def _bounds(base: Mapping[str, Any], loads: Overrides, seeds: range) -> list[Cell]:
    """Alike at every rate, so that it runs once for each cluster and trace."""
    fastest = {name: "h100" if "+H100" in name else "a100" for name in loads}
    return [
        cell
        for name, gpu in fastest.items()
        for cell in variants("hexgen", base, {ALONE: _alone(gpu)}, {name: loads[name]}, seeds)
    ]


def section(outcomes: Outcomes) -> Section:
    loads = [load for load in outcomes.loads if _complete(outcomes, load)]
    lines = [
        paragraph(
            """
            Text-to-SQL queries of about 20 calls in stages on {A100, A100, A6000, L40}, and
            with one H100 besides; a 70B model. P95 of a query's time, medians over the seeds.
            Round robin queues in the engines, first come first served; all others share one
            admission queue, cost model and hints. `alone` is the longest path: every query by
            itself on the cluster's fastest GPUs, whatever the rate.
            """
        ),
        "",
        *_latencies(outcomes),
        "",
        "Ratios of P95 (theirs / ours, above 1 ours is better), pairs of seeds:",
        "",
        *_ratios(outcomes, loads),
    ]
    plots = {"hexgen-p95": partial(_plot, outcomes)} if loads else {}
    return Section("HexGen's workflows", lines, _targets(outcomes, loads), plots)


def _complete(outcomes: Outcomes, load: str) -> bool:
    return bool(outcomes.seeds(load, OURS, *BASELINES))


def _latencies(outcomes: Outcomes) -> list[str]:
    heads = ["queries", *outcomes.policies]
    rows = [
        [load, *(_median(outcomes, policy, load) for policy in outcomes.policies)]
        for load in outcomes.loads
    ]
    return table(heads, rows)


def _median(outcomes: Outcomes, policy: str, load: str) -> str:
    if not outcomes.seeds(load, policy):
        return ""
    return figure(outcomes.median(policy, load, METRIC).value)


def _ratios(outcomes: Outcomes, loads: Sequence[str]) -> list[str]:
    rows = [
        [
            load,
            outcomes.strongest(BASELINES, [load], METRIC),
            *(interval(outcomes.ratio(name, OURS, load, METRIC)) for name in BASELINES),
        ]
        for load in loads
    ]
    return table(["queries", "strongest", *BASELINES], rows)


def _targets(outcomes: Outcomes, loads: Sequence[str]) -> list[Target]:
    if not loads:
        return []
    robin = outcomes.mean_ratio(ROBIN, OURS, loads, METRIC)
    earliest = outcomes.mean_ratio(EARLIEST, OURS, loads, METRIC)
    each = {load: outcomes.ratio(EARLIEST, OURS, load, METRIC) for load in loads}
    worse = [load for load, found in each.items() if found.all_below(1.0)]
    lowest = min(each, key=lambda load: each[load].value)
    fixed = [load for load in loads if outcomes.seeds(load, TUNED, *FIXED)]
    return [
        *_tuning(outcomes, fixed),
        Target(
            f"against round robin at least 1.41x in the mean over all loads: {interval(robin)}",
            robin.value >= 1.41,
        ),
        Target(
            f"against `earliest-completion` at least 1.05x in the mean: {interval(earliest)}",
            earliest.value >= 1.05,
        ),
        Target(
            f"in no cell worse than `earliest-completion` beyond its interval: worse in"
            f" {len(worse)} of {len(loads)}, lowest {interval(each[lowest])} at {lowest}",
            not worse,
        ),
    ]


def _tuning(outcomes: Outcomes, loads: Sequence[str]) -> list[Target]:
    if not loads:
        return []
    best = {load: outcomes.strongest(list(FIXED), [load], METRIC) for load in loads}
    over = {load: outcomes.ratio(TUNED, best[load], load, METRIC) for load in loads}
    mean = sum(found.value for found in over.values()) / len(over)
    worst = max(over, key=lambda load: over[load].value)
    text = f"alpha tuned while it runs within 5 % of the best fixed alpha in hindsight: {mean:.3f}"
    text += f" of its P95 in the mean, at worst {interval(over[worst])} at {worst}"
    text += f" ({best[worst]} is best there)"
    return [Target(text, mean <= 1.05)]


def _plot(outcomes: Outcomes, path: Path) -> None:
    panels: dict[str, dict[str, list[Any]]] = {}
    for load in outcomes.loads:
        cluster, _, rate = load.rpartition(" ")
        shown = [policy for policy in outcomes.policies if policy not in FIXED]
        panel = panels.setdefault(cluster, {policy: [] for policy in shown})
        for policy, points in panel.items():
            if outcomes.seeds(load, policy):
                estimate = outcomes.median(policy, load, METRIC)
                points.append((float(rate.removesuffix("/s")), estimate))
    draw(path, panels, "queries a second", "P95 of a query (s)", log=True)


EXPERIMENT = Experiment("hexgen", cells, section, share=0.3)
