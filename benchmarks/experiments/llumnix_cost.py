"""Experiment 1: how many instances a P99 takes, on the Llumnix paper's trace for its autoscaler."""

from collections.abc import Sequence
from itertools import pairwise
from math import log

from experiments.cells import Cell, merge
from experiments.definitions import Experiment, Form, Section, Target, scenario, variants
from experiments.intervals import Interval, mean
from experiments.llumnix import INFAAS, LLUMNIX, OURS, POLICIES, paper_load
from experiments.outcomes import Outcomes
from experiments.page import interval, paragraph, table

_INSTANCES = (16, 15, 14, 13, 12, 11, 10, 9)
_COST_RATE, _COST_P99_S = 2.0, 4.5


def cells(form: Form) -> list[Cell]:
    base = merge(scenario("llumnix"), paper_load("L", "L", _COST_RATE, form))
    base = merge(base, {"workload": {"cv": 2.0}})
    policies = {name: POLICIES[name] for name in (INFAAS, LLUMNIX, OURS)}
    counts = form.pick(_INSTANCES[2:7:2], _INSTANCES[3:7], _INSTANCES)
    loads = {str(n): {"instances": {"chat": {"a10": n}}} for n in counts}
    return variants("llumnix-cost", base, policies, loads, range(form.seeds))


def section(outcomes: Outcomes) -> Section:
    lines = [
        paragraph(
            f"""
            How many instances keep the P99 of TTFT at {_COST_P99_S} s on the L-L trace at
            {_COST_RATE:g}/s with CV 2 (the load of the paper's figure 15). The paper varies the
            threshold of its autoscaler; here each run has a fixed number of instances, and the
            number at the target is interpolated per seed, linear in the logarithm of the P99.
            """
        ),
        "",
    ]
    policies, loads = outcomes.policies, sorted(outcomes.loads, key=int, reverse=True)
    rows = [
        [policy, *(interval(outcomes.median(policy, load, "ttft_p99_s")) for load in loads)]
        for policy in policies
        if all((policy, load) in outcomes.rows for load in loads)
    ]
    lines += table(["TTFT P99 s with", *loads], rows)
    savings = {name: _saving(outcomes, loads, name) for name in (OURS, LLUMNIX) if name in policies}
    targets = []
    if savings.get(OURS) and savings.get(LLUMNIX):
        ours, theirs = mean(savings[OURS]), mean(savings[LLUMNIX])
        text = "instances saved against INFaaS++ at equal P99 more than 21 % and no fewer than"
        text += f" `llumnix` saves: ours {interval(_hundred(ours))} %, `llumnix`"
        text += f" {interval(_hundred(theirs))} %"
        reached = ours.value > 0.21 and ours.value >= theirs.value
        targets.append(Target(text, reached))
    return Section("Instances at equal latency", lines, targets)


def _hundred(share: Interval) -> Interval:
    return Interval(100 * share.value, 100 * share.low, 100 * share.high, share.pairs)


def _saving(outcomes: Outcomes, loads: Sequence[str], policy: str) -> list[float]:
    """Per seed, 1 - instances / INFaaS++'s; seeds at which either never crosses are left out."""
    saved = []
    for seed in outcomes.seeds(loads[0], policy, INFAAS):
        needed = [_needed(outcomes, loads, name, seed) for name in (policy, INFAAS)]
        if needed[0] is not None and needed[1] is not None:
            saved.append(1 - needed[0] / needed[1])
    return saved


def _needed(outcomes: Outcomes, loads: Sequence[str], policy: str, seed: int) -> float | None:
    """Instances at which the P99 crosses the target, from many to few."""
    points = [
        (int(load), log(outcomes.rows[policy, load][seed].metrics["ttft_p99_s"]))
        for load in loads
        if seed in outcomes.rows.get((policy, load), {})
    ]
    goal = log(_COST_P99_S)
    if not points or points[0][1] > goal:
        return None
    for (many, low), (few, high) in pairwise(points):
        if high > goal:
            return many - (many - few) * (goal - low) / (high - low)
    return float(points[-1][0])  # the fewest that were tried are still enough


EXPERIMENT = Experiment("llumnix-cost", cells, section, share=0.3)
