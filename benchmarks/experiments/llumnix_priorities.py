"""Experiment 1: what a tenth of high-priority requests gains, and what the others pay for it."""

from functools import partial
from pathlib import Path

from experiments.cells import Cell, merge
from experiments.definitions import (
    Experiment,
    Form,
    Section,
    Target,
    bounds,
    scenario,
    variants,
)
from experiments.llumnix import LLUMNIX, OURS, POLICIES
from experiments.outcomes import Outcomes
from experiments.page import figure, interval, paragraph, percent, table
from experiments.plots import draw

_CVS = (2, 4, 6, 8)


def cells(form: Form) -> list[Cell]:
    base = merge(
        scenario("llumnix-priorities"), {"workload": {"requests": round(form.length(10_000))}}
    )
    equal = {"policy": {"classes": [{"name": n, "priority": 50} for n in ("high", "standard")]}}
    policies = {
        "llumnix, no priorities": merge(POLICIES[LLUMNIX], equal),
        LLUMNIX: POLICIES[LLUMNIX],
        "ours, no priorities": equal,
        OURS: {},
    }
    cvs = form.pick((_CVS[0], _CVS[-1]), (2, 4, 8), _CVS)
    loads = {f"CV {cv}": {"workload": {"cv": float(cv)}} for cv in cvs}
    seeds = range(form.seeds)
    return [
        *variants("llumnix-priorities", base, policies, loads, seeds),
        *bounds("llumnix-priorities", base, loads, seeds, "alone"),
    ]


_PRIORITY_COLUMNS = {
    "high: decode P99 ms": ("high.decode_p99_s", 1000),
    "high: TTFT P99 s": ("high.ttft_p99_s", 1),
    "high: e2e mean s": ("high.e2e_mean_s", 1),
    "normal: e2e mean s": ("standard.e2e_mean_s", 1),
}


def section(outcomes: Outcomes) -> Section:
    rows = [
        [
            load,
            policy,
            *(
                figure(outcomes.median(policy, load, metric).value * factor)
                for metric, factor in _PRIORITY_COLUMNS.values()
            ),
        ]
        for load in outcomes.loads
        for policy in outcomes.policies
        if outcomes.seeds(load, policy)
    ]
    lines = [
        paragraph(
            """
            S-S at 26/s, a tenth of high priority. `no priorities` is the same policy with both
            classes alike: what normal requests pay is measured against it, pair by pair. `bound`:
            every request alone.
            """
        ),
        "",
        *table(["bursts", "policy", *_PRIORITY_COLUMNS], rows),
    ]
    loads = [load for load in outcomes.loads if outcomes.seeds(load, OURS, "ours, no priorities")]
    if not loads:
        return Section("High priority", lines)
    p99 = [outcomes.median(OURS, load, "high.decode_p99_s").value * 1000 for load in loads]
    cost = {
        load: outcomes.ratio(OURS, "ours, no priorities", load, "standard.e2e_mean_s")
        for load in loads
    }
    dearest = max(cost, key=lambda load: cost[load].value)
    targets = [
        Target(
            f"decode P99 of high priority flat from CV 2 to 8: {figure(min(p99))} to"
            f" {figure(max(p99))} ms (flat: within 10 %; the paper has 66 to 68)",
            max(p99) <= 1.1 * min(p99),
        ),
        Target(
            f"normal requests' end-to-end mean grows by at most 4.5 %: at most"
            f" {percent(cost[dearest].value - 1)} at {dearest} (ratio {interval(cost[dearest])})",
            cost[dearest].value <= 1.045,
        ),
    ]
    plots = {"llumnix-priorities": partial(_plot, outcomes)}
    return Section("High priority", lines, targets, plots)


def _plot(outcomes: Outcomes, path: Path) -> None:
    panels = {
        title: {
            policy: [
                (float(load.removeprefix("CV ")), outcomes.median(policy, load, metric))
                for load in outcomes.loads
                if outcomes.seeds(load, policy)
            ]
            for policy in outcomes.policies
        }
        for title, metric in (
            ("high: decode P99 (s)", "high.decode_p99_s"),
            ("normal: end-to-end mean (s)", "standard.e2e_mean_s"),
        )
    }
    draw(path, panels, "CV of the gaps", "")


EXPERIMENT = Experiment("llumnix-priorities", cells, section, share=0.4)
