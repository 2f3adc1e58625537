"""Experiment 5: classes, bursts, and a tenant that floods."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from experiments.cells import Cell
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
from experiments.intervals import Interval
from experiments.outcomes import Outcomes
from experiments.page import figure, interval, paragraph, percent, table
from experiments.plots import draw
from shunter_simulator.scenarios import parse_scenario
from shunter_simulator.virtual.build import engine_settings, true_cost

OURS, ALONE, ALIKE = "ours", "interactive alone (oracle)", "ours, no classes"
PLAIN, PLAIN_LEAST = "ours, engines never yield", "least-requests, engines never yield"
_NEVER: dict[str, Any] = {"engines": {"chat": {"a100": {"yieldSteps": 0}}}}
_NO_MOVES: dict[str, Any] = {"moves": {"policy": "drain-only"}}
_CLASSES = ("interactive", "standard", "batch")
# Requests a second that the four A100 end when 200 s of 42/s wait for them (least-requests).
CAPACITY_PER_S = 28.5
_USES = (0.7, 0.85, 0.95)
_SHARES: Mapping[str, tuple[float, float]] = {  # of the requests; CV of the gaps
    "interactive": (0.2, 8.0),
    "standard": (0.5, 1.0),
    "batch": (0.3, 1.0),
}
_TENANTS = ["a", "b", "c", "d"]


def _policies(base: Mapping[str, Any]) -> Overrides:
    """All have the same classes, queue and cost model but for the one without classes."""
    alike = [{**one, "priority": 50, "suspendable": False} for one in base["policy"]["classes"]]
    return {
        "round robin": dispatch("round-robin", **_NO_MOVES),
        "least-requests": dispatch("least-requests", **_NO_MOVES),
        "queue-kv-prefix": dispatch("queue-kv-prefix", **_NO_MOVES),
        ALIKE: {"policy": {"classes": alike}},
        OURS: {},
        PLAIN: _NEVER,
        PLAIN_LEAST: {**dispatch("least-requests", **_NO_MOVES), **_NEVER},
        ALONE: {"workload": {"only": "interactive"}},
    }


def _load(use: float, form: Form) -> dict[str, Any]:
    """The flood adds three times a tenant's share of everything for a quarter of the time."""
    total, length_s = use * CAPACITY_PER_S, round(form.length(600))
    flood = 3 * total / len(_TENANTS) / 4  # on average; the others leave room for it
    rest = total - flood
    streams: list[dict[str, Any]] = [
        {"class": name, "tenants": _TENANTS, "rate": round(rest * share, 3), "cv": cv}
        for name, (share, cv) in _SHARES.items()
    ]
    begin, end = round(length_s * 0.4), round(length_s * 0.65)
    streams.append(
        {
            "class": "standard",
            "tenants": ["flood"],
            "rate": round(4 * flood, 3),
            "start": f"{begin}s",
            "end": f"{end}s",
        }
    )
    workload = {"duration": f"{length_s}s", "streams": streams}
    return {"workload": workload, "warmup": minutes(0.5, form)}


def cells(form: Form) -> list[Cell]:
    base = scenario("classes")
    uses = form.pick(_USES[1:], _USES[1:], _USES)
    loads = {f"{use:.0%} used": _load(use, form) for use in uses}
    policies = _policies(base)
    some = {name: policies[name] for name in ("least-requests", ALIKE, OURS, PLAIN, ALONE)}
    policies = form.pick(policies, some, policies)
    return variants("classes", base, policies, loads, range(form.seeds))


def section(outcomes: Outcomes) -> Section:
    rows = []
    for load in outcomes.loads:
        ready = [p for p in outcomes.policies if outcomes.seeds(load, p)]
        rows += [[load, policy, *_row(outcomes, policy, load)] for policy in ready]
    heads = [
        "load",
        "policy",
        "interactive within targets",
        "standard within targets",
        "batch TTFT mean s",
        "all tokens/s",
        "service gap of standard, tokens",
        "suspended",
    ]
    lines = [
        paragraph(
            """
            An 8B model on four A100, Azure lengths: interactive 20 % in bursts of CV 8,
            standard 50 %, batch 30 %; the tenant `flood` comes with three times a tenant's
            share for a quarter of the time. Medians over the seeds. The oracle serves the same
            interactive requests and nothing else. Engines let answers of lower classes stand still
            for prompts of higher ones, up to 4 steps in a row, as `shunter engine --yield-steps 4`
            does, with every policy; `engines never yield` has them as vLLM's are. The service gap
            is the widest difference in tokens served between two tenants while both have requests
            waiting.
            """
        ),
        "",
        *table(heads, rows),
    ]
    ready = [load for load in outcomes.loads if outcomes.seeds(load, OURS, ALONE)]
    plots = {"classes-gap": partial(_plot, outcomes)} if ready else {}
    return Section("Classes and tenants", lines, _targets(outcomes, ready), plots)


def _row(outcomes: Outcomes, policy: str, load: str) -> list[str]:
    seeds = outcomes.seeds(load, policy)
    have = outcomes.rows[policy, load][seeds[0]].metrics
    wanted = {
        "interactive.attainment": percent,
        "standard.attainment": percent,
        "batch.ttft_mean_s": figure,
        "tokens_per_s": figure,
        "standard.service_gap_tokens": figure,
        "suspensions": figure,
    }
    return [
        show(outcomes.median(policy, load, metric).value) if metric in have else ""
        for metric, show in wanted.items()
    ]


def _targets(outcomes: Outcomes, loads: list[str]) -> list[Target]:
    targets = []
    for load in loads:
        lost = outcomes.difference(ALONE, OURS, load, "interactive.attainment")
        text = f"at {load} interactive attainment within 1 point of the oracle:"
        text += f" {interval(_points(lost))} points below it"
        targets.append(Target(text, lost.value <= 0.01))
    for load in loads:
        if outcomes.seeds(load, OURS, "least-requests"):
            rate = outcomes.ratio(OURS, "least-requests", load, "tokens_per_s")
            text = f"at {load} batch gets all the rest: tokens a second of all classes together"
            text += f" {interval(rate)} times those of `least-requests`"
            targets.append(Target(text, rate.value >= 0.99))
    bound = _gap_bound_tokens()
    for load in loads:
        seeds = outcomes.seeds(load, OURS)
        gap = max(outcomes.values(OURS, load, "standard.service_gap_tokens", seeds))
        text = f"at {load} the service gap between equally weighted tenants is bounded: at most"
        text += f" {figure(gap)} tokens on any seed; the bound is {figure(bound)}"
        targets.append(Target(text, gap <= bound))
    return targets


def _gap_bound_tokens() -> float:
    """Twice the tokens that fit into the fleet's memory at once (Sheng et al., Fairness in Serving
    Large Language Models, OSDI 2024, section 4: 2 max(w_p L_input, w_q M), here with equal weights
    of both kinds of token)."""
    parsed = parse_scenario(yaml.safe_dump(scenario("classes")), "classes", str)
    (pool,) = parsed.model_pools
    instances = list(parsed.instances_of(pool))
    return 2.0 * sum(
        true_cost(pool, pool.profile(name), engine_settings(parsed, pool, name)).kv_capacity_tokens
        for name, _ in instances
    )


def _points(share: Interval) -> Interval:
    return Interval(100 * share.value, 100 * share.low, 100 * share.high, share.pairs)


def _plot(outcomes: Outcomes, path: Path) -> None:
    panels = {
        title: {
            policy: [
                (float(load.split("%")[0]) / 100, outcomes.median(policy, load, metric))
                for load in outcomes.loads
                if outcomes.seeds(load, policy)
            ]
            for policy in outcomes.policies
            if policy != ALONE or metric.startswith("interactive")
        }
        for title, metric in (
            ("interactive within targets", "interactive.attainment"),
            ("widest service gap, standard (tokens)", "standard.service_gap_tokens"),
        )
    }
    draw(path, panels, "utilisation", "")


EXPERIMENT = Experiment("classes", cells, section, share=0.5)
