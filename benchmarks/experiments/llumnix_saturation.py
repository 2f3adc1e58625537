"""Experiment 1: what moves do where more comes than the cluster can serve."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from experiments.cells import Cell
from experiments.definitions import (
    BOUND,
    Experiment,
    Form,
    Section,
    Target,
    bounds,
    scenario,
    variants,
)
from experiments.llumnix import LLUMNIX, OURS, POLICIES, RATES, least_e2e_s, paper_load
from experiments.outcomes import Outcomes
from experiments.page import figure, interval, paragraph, table
from experiments.plots import draw

_FACTORS = (1.1, 1.2, 1.3)
_METRICS = {"end-to-end mean": "e2e_mean_s", "TTFT P99": "ttft_p99_s"}


def cells(form: Form) -> list[Cell]:
    factors = form.pick(_FACTORS[-1:], _FACTORS[::2], _FACTORS)
    loads = {
        _name(prompts, outputs, factor): paper_load(
            prompts, outputs, round(rates[-1] * factor, 3), form
        )
        for (prompts, outputs), rates in RATES.items()
        for factor in factors
    }
    few = {name: POLICIES[name] for name in (LLUMNIX, OURS)}
    policies = form.pick(few, few, POLICIES)
    base, seeds = scenario("llumnix"), range(form.seeds)
    return [
        *variants("llumnix-saturation", base, policies, loads, seeds),
        *bounds("llumnix-saturation", base, loads, seeds, "alone"),
    ]


def _name(prompts: str, outputs: str, factor: float) -> str:
    return f"{prompts}-{outputs} x{factor:g}"


def section(outcomes: Outcomes) -> Section:
    loads = [load for load in outcomes.loads if outcomes.seeds(load, OURS, LLUMNIX)]
    rows = [
        [
            load,
            *(
                figure(outcomes.median(policy, load, metric).value)
                for metric in _METRICS.values()
                for policy in (LLUMNIX, OURS)
            ),
            figure(least_e2e_s(outcomes, load).value),
            *(interval(outcomes.ratio(OURS, LLUMNIX, load, m)) for m in _METRICS.values()),
        ]
        for load in loads
    ]
    heads = [f"{name} s, {policy}" for name in _METRICS for policy in (LLUMNIX, OURS)]
    lines = [
        paragraph(
            """
            The same traces at more than the knee's rate. Medians over the seeds, and ratios of
            pairs, below 1 ours is better. `llumnix` is the strongest of the paper's policies here,
            and the one that moves. `bound` is that of a fluid model, as above.
            """
        ),
        "",
        *table(
            ["load", *heads, "end-to-end mean s, bound", *(f"{name}, ratio" for name in _METRICS)],
            rows,
        ),
    ]
    plots = {"llumnix-saturation": partial(_plot, outcomes)} if loads else {}
    return Section("Beyond the knee", lines, _targets(outcomes, loads), plots)


def _targets(outcomes: Outcomes, loads: Sequence[str]) -> list[Target]:
    targets = []
    for name, metric in _METRICS.items() if loads else ():
        ratios = {load: outcomes.ratio(OURS, LLUMNIX, load, metric) for load in loads}
        worse = [load for load, found in ratios.items() if found.all_above(1.0)]
        worst = max(ratios, key=lambda load: ratios[load].value)
        text = f"no regression against `llumnix` in {name} beyond the interval: worse in"
        text += f" {len(worse)} of {len(loads)} loads, the largest ratio is"
        targets.append(Target(f"{text} {interval(ratios[worst])}, on {worst}", not worse))
    return targets


def _plot(outcomes: Outcomes, path: Path) -> None:
    panels = {
        f"{prompts}-{outputs}": {
            policy: [
                (factor, outcomes.median(policy, load, "e2e_mean_s"))
                for factor in _FACTORS
                if outcomes.seeds(load := _name(prompts, outputs, factor), policy)
            ]
            for policy in outcomes.policies
            if policy != BOUND
        }
        for prompts, outputs in RATES
    }
    draw(path, panels, "load, knee = 1", "end-to-end mean (s)")


EXPERIMENT = Experiment("llumnix-saturation", cells, section, share=0.3)
