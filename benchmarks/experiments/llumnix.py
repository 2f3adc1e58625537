"""Experiment 1: the Llumnix paper's traces on its cluster of 16."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

from experiments.bounds import fluid_e2e_s
from experiments.cells import Cell
from experiments.definitions import (
    BOUND,
    Experiment,
    Form,
    Overrides,
    Section,
    Target,
    bounds,
    dispatch,
    scenario,
    variants,
)
from experiments.intervals import Interval, median
from experiments.measures import CURVE_SHARES
from experiments.outcomes import Outcomes
from experiments.page import figure, interval, paragraph, table
from experiments.plots import draw, draw_curves

OURS, LLUMNIX, INFAAS, ROBIN, POOLED = "ours", "llumnix", "INFaaS++", "round robin", "pooled"
BASELINES = (LLUMNIX, INFAAS, ROBIN)
_IN_ENGINES: Mapping[str, Any] = {"queueIn": "engines", "moves": {"policy": "drain-only"}}
POLICIES: Overrides = {
    ROBIN: dispatch("round-robin", **_IN_ENGINES),
    INFAAS: dispatch("llumnix", **_IN_ENGINES),
    LLUMNIX: dispatch("llumnix", queueIn="engines", moves={"policy": "llumnix"}),
    OURS: {},
}
# Rates below the knee and at it, per second: the paper's highest rate is the knee.
RATES: Mapping[tuple[str, str], Sequence[float]] = {
    ("S", "S"): (32, 34, 36),
    ("M", "M"): (7.4, 7.6, 7.8),
    ("L", "L"): (2.6, 2.8, 3.0),
    ("S", "L"): (4.1, 4.2, 4.3),
    ("L", "S"): (14, 16, 18),
}
# KV tokens a request below which `llumnix` moves away and above which it moves to: the artifact has
# 10 blocks of 16 for two of the traces and 3 for the others.
_FREENESS: Mapping[tuple[str, str], float] = {("M", "M"): 160.0, ("S", "L"): 160.0}


def paper_load(prompts: str, outputs: str, rate: float, form: Form) -> dict[str, Any]:
    requests = round(form.length(10_000))
    fields = {"prompts": prompts, "outputs": outputs, "rate": rate, "requests": requests}
    freeness = _FREENESS.get((prompts, outputs), 48.0)
    return {"workload": fields, "moves": {"llumnixFreeness": freeness}}


def _name(prompts: str, outputs: str, rate: float) -> str:
    return f"{prompts}-{outputs} {rate:g}/s"


def _loads(form: Form) -> dict[str, dict[str, Any]]:
    knees = {pair: rates[-1:] for pair, rates in RATES.items()}
    return {
        _name(prompts, outputs, rate): paper_load(prompts, outputs, rate, form)
        for (prompts, outputs), rates in form.pick(knees, knees, RATES).items()
        for rate in rates
    }


def _knees() -> list[str]:
    return [_name(p, o, rates[-1]) for (p, o), rates in RATES.items()]


def _pooled(base: Mapping[str, Any]) -> dict[str, Any]:
    """One engine with the memory and the speed of all sixteen: no load is ever in the wrong place,
    no memory in pieces. A step's fixed part does not shrink."""
    engine = base["engines"]["chat"]["a10"]
    times = engine["times"]
    fixed = ("prefillBaseMs", "decodeBaseMs")
    faster = {name: ms if name in fixed else ms / 16 for name, ms in times.items()}
    one = {"times": faster, "kvTokens": engine["kvTokens"] * 16, "maxNumSeqs": 256 * 16}
    return {
        "engines": {"chat": {"a10": one}},
        "instances": {"chat": {"a10": 1}},
        **dispatch("least-requests", **_IN_ENGINES),
    }


def cells(form: Form) -> list[Cell]:
    base = scenario("llumnix")
    policies = {**POLICIES, POOLED: _pooled(base)}
    loads, seeds = _loads(form), range(form.seeds)
    return [
        *variants("llumnix", base, policies, loads, seeds),
        *bounds("llumnix", base, loads, seeds, "alone"),
    ]


def section(outcomes: Outcomes) -> Section:
    knees = [load for load in _knees() if load in outcomes.loads]
    lines = [
        paragraph(
            """
            16 simulated A10 with LLaMA-7B and vLLM 0.1's scheduling, in full 10,000 requests a
            run. Medians over the seeds; ratios are of pairs, geometric means with 95 %
            intervals, below 1 ours is better. `pooled` is one engine with the memory and the
            speed of all sixteen, as if moves were free. It is a yardstick, no bound: a prompt in it
            stops every answer, and what comes first goes first. `bound`: every request alone,
            but for the end-to-end mean, where a fluid model that knows all to come and never waits
            has the engine time of ours (`experiments/bounds.py`).
            """
        ),
        "",
        *_latencies(outcomes, knees),
        "",
        *_ratios(outcomes, knees),
    ]
    plots = {"llumnix-curves": partial(_curves, outcomes, knees)} if knees else {}
    if len(outcomes.loads) > len(knees):
        plots["llumnix-ttft"] = partial(_plot, outcomes)
    return Section("Llumnix's traces", lines, _targets(outcomes, knees), plots)


_COLUMNS = {
    "TTFT mean s": "ttft_mean_s",
    "TTFT P99 s": "ttft_p99_s",
    "decode P99 ms": "decode_p99_s",
    "e2e mean s": "e2e_mean_s",
    "preemption loss s": "preemption_loss_s",
    "moves": "moves",
}


def _latencies(outcomes: Outcomes, loads: Sequence[str]) -> list[str]:
    rows = []
    for load in loads:
        for policy in outcomes.policies:
            if not outcomes.seeds(load, policy):
                continue
            cells = [outcomes.median(policy, load, m).value for m in _COLUMNS.values()]
            cells[2] *= 1000
            if policy == BOUND:
                cells[3] = least_e2e_s(outcomes, load).value
            rows.append([load, policy, *map(figure, cells)])
    return table(["load", "policy", *_COLUMNS], rows)


def least_e2e_s(outcomes: Outcomes, load: str) -> Interval:
    """The median over the seeds of the least mean end-to-end time with the engine time of ours."""
    found = []
    for seed in outcomes.seeds(load, OURS, BOUND):
        used = outcomes.rows[OURS, load][seed].metrics
        engine_s = used["instances_mean"] * used["duration_s"]
        found.append(fluid_e2e_s(outcomes.rows[BOUND, load][seed].metrics, engine_s))
    return median(found or [nan])


def _ratios(outcomes: Outcomes, loads: Sequence[str]) -> list[str]:
    heads = ["load", "strongest on TTFT P99", "TTFT P99", "e2e mean", "decode P99"]
    rows = []
    for load in loads:
        if not all(outcomes.seeds(load, OURS, name) for name in BASELINES):
            continue
        best = outcomes.strongest(BASELINES, [load], "ttft_p99_s")
        found = (
            outcomes.ratio(OURS, best, load, metric)
            for metric in ("ttft_p99_s", "e2e_mean_s", "decode_p99_s")
        )
        loss = outcomes.difference(OURS, best, load, "preemption_loss_s")
        rows.append([load, best, *map(interval, found), interval(loss)])
    return table([*heads, "preemption loss, difference s"], rows)


def _targets(outcomes: Outcomes, knees: Sequence[str]) -> list[Target]:
    ready = [load for load in knees if outcomes.seeds(load, OURS, LLUMNIX)]
    if not ready:
        return []
    medians = {load: _median_ratio(outcomes, load, "ttft_p99_s") for load in ready}
    worst = max(medians, key=lambda load: medians[load].value)
    losses = {load: _median_loss(outcomes, load) for load in ready}
    lossy = max(losses, key=lambda load: losses[load].value)
    overall = outcomes.mean_ratio(OURS, LLUMNIX, ready, "ttft_p99_s")
    loss = outcomes.mean_difference(OURS, LLUMNIX, ready, "preemption_loss_s")
    return [
        Target(
            f"at the knee, TTFT P99 on the median seed no worse than `llumnix` on every trace: the"
            f" largest median ratio is {interval(medians[worst])}, on {worst}",
            medians[worst].value <= 1.0,
        ),
        Target(
            f"at the knee, TTFT P99 better on the mean of all traces: ratio {interval(overall)}",
            overall.value < 1.0,
        ),
        Target(
            f"at the knee, preemption loss on the median seed no worse than `llumnix` on every"
            f" trace: the largest difference is {interval(losses[lossy])} s a request, on {lossy}",
            losses[lossy].value <= 0.0,
        ),
        Target(
            f"at the knee, preemption loss better on the mean of all traces:"
            f" {interval(loss)} s a request",
            loss.value < 0.0,
        ),
    ]


def _median_ratio(outcomes: Outcomes, load: str, metric: str) -> Interval:
    seeds = outcomes.seeds(load, OURS, LLUMNIX)
    ours, theirs = (outcomes.values(p, load, metric, seeds) for p in (OURS, LLUMNIX))
    return median([a / b for a, b in zip(ours, theirs, strict=True)])


def _median_loss(outcomes: Outcomes, load: str) -> Interval:
    seeds = outcomes.seeds(load, OURS, LLUMNIX)
    ours, theirs = (outcomes.values(p, load, "preemption_loss_s", seeds) for p in (OURS, LLUMNIX))
    return median([a - b for a, b in zip(ours, theirs, strict=True)])


def _curves(outcomes: Outcomes, loads: Sequence[str], path: Path) -> None:
    """Of seed 0, the paper's own trace."""
    panels = {
        load: {
            policy: outcomes.rows[policy, load][0].curves["ttft_s"]
            for policy in outcomes.policies
            if "ttft_s" in _curves_of(outcomes, policy, load)
        }
        for load in loads
    }
    draw_curves(path, CURVE_SHARES.tolist(), panels, "TTFT (s)")


def _curves_of(outcomes: Outcomes, policy: str, load: str) -> Mapping[str, Sequence[float]]:
    first = outcomes.rows.get((policy, load), {}).get(0)
    return first.curves if first else {}


def _plot(outcomes: Outcomes, path: Path) -> None:
    panels = {
        f"{prompts}-{outputs}": {
            policy: [
                (rate / rates[-1], outcomes.median(policy, load, "ttft_p99_s"))
                for rate in rates
                if (policy, load := _name(prompts, outputs, rate)) in outcomes.rows
            ]
            for policy in outcomes.policies
            if policy != BOUND
        }
        for (prompts, outputs), rates in RATES.items()
    }
    draw(path, panels, "load, knee = 1", "TTFT P99 (s)", log=True)


EXPERIMENT = Experiment("llumnix", cells, section, share=1.0)
