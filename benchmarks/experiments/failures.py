"""Experiment 6: instances drain, die and are taken back while a trace runs."""

from typing import Any

from experiments.cells import Cell
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

OURS, CALM, STAYING = "ours", "ours, nothing fails (bound)", "ours, nothing moves"
LEAST = "least-requests"


def _policies() -> Overrides:
    return {
        CALM: {"faults": []},
        STAYING: {"moves": {"policy": "none"}},
        LEAST: dispatch(LEAST, moves={"policy": "drain-only"}),
        OURS: {},
    }


_RATES = (20, 30)


def cells(form: Form) -> list[Cell]:
    """Faults keep their times, which a part of the duration has to reach."""
    rates = form.pick(_RATES[:1], _RATES[:1], _RATES)
    length = f"{max(480, round(form.length(600)))}s"
    loads = {f"{r}/s": {"workload": {"rate": r, "duration": length}} for r in rates}
    return variants("failures", scenario("failures"), _policies(), loads, range(form.seeds))


_COLUMNS = {
    "requests": "requests",
    "lost": "lost",
    "moved": "moves",
    "longest pause P99 ms": "stall_p99_s",
    "TTFT P99 s": "ttft_p99_s",
    "e2e P99 s": "e2e_p99_s",
}


def section(outcomes: Outcomes) -> Section:
    ready = [(load, p) for load in outcomes.loads for p in outcomes.policies]
    rows = [
        [load, policy, *(_cell(outcomes, policy, load, metric) for metric in _COLUMNS.values())]
        for load, policy in ready
        if outcomes.seeds(load, policy)
    ]
    lines = [
        paragraph(
            """
            Three of twelve instances (H100, A100, L4) drain, two die, one is taken back with 30
            s notice during ten minutes of the Azure trace. Requests, lost and moved are sums
            over the seeds, times medians.
            """
        ),
        "",
        *table(["load", "policy", *_COLUMNS], rows),
    ]
    targets = []
    for load in outcomes.loads:
        seeds = outcomes.seeds(load, OURS, CALM)
        if not seeds:
            continue
        # A generated load has prompts beyond the context: refused, whether anything fails or not.
        refused = outcomes.values(CALM, load, "lost", seeds)
        lost = sum(outcomes.values(OURS, load, "lost", seeds)) - sum(refused)
        extra = outcomes.difference(OURS, CALM, load, "e2e_p99_s")
        ttft = outcomes.difference(OURS, CALM, load, "ttft_p99_s")
        text = f"no request lost at {load}: {lost:.0f} lost; the P99 of TTFT grows by"
        text += f" {interval(ttft)} s, of the whole request by {interval(extra)} s"
        targets.append(Target(text, lost == 0))
    return Section("Drain and failure", lines, targets)


def _cell(outcomes: Outcomes, policy: str, load: str, metric: str) -> str:
    found: list[Any] = [
        outcomes.rows[policy, load][s].metrics.get(metric) for s in outcomes.seeds(load, policy)
    ]
    values = [v for v in found if v is not None]
    if not values:
        return ""
    if metric in ("requests", "lost", "moves"):
        return f"{sum(values):,.0f}"
    middle = sorted(values)[len(values) // 2]
    return figure(middle * 1000 if metric == "stall_p99_s" else middle)


EXPERIMENT = Experiment("failures", cells, section, share=0.8)
