"""Experiment 3: conversations that share prefixes."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

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
    minutes,
    scenario,
    variants,
)
from experiments.outcomes import Outcomes
from experiments.page import figure, interval, paragraph, percent, table
from experiments.plots import draw

OURS, PICKER, AFFINITY = "ours", "queue-kv-prefix", "prefix-affinity"
_NO_MOVES: dict[str, Any] = {"moves": {"policy": "drain-only"}}
POLICIES: Overrides = {
    "round robin": dispatch("round-robin", **_NO_MOVES),
    "least-requests": dispatch("least-requests", **_NO_MOVES),
    AFFINITY: dispatch(AFFINITY, **_NO_MOVES),
    PICKER: dispatch(PICKER, **_NO_MOVES),
    "earliest-completion": dispatch("earliest-completion", **_NO_MOVES),
    "ours, no moves": _NO_MOVES,
    OURS: {},
}
_WEAK = ("round robin", "least-requests")  # they know nothing of prefixes
BASELINES = (PICKER, AFFINITY)
_SPEEDS = (0.8, 1.2, 1.6)


def cells(form: Form) -> list[Cell]:
    speeds = form.pick(_SPEEDS[1:2], _SPEEDS[1:], _SPEEDS)
    loads = {
        f"speed {speed:g}": {
            "workload": {"speed": speed, "duration": minutes(20, form)},
            "warmup": minutes(2, form),
        }
        for speed in speeds
    }
    strong = {name: POLICIES[name] for name in POLICIES if name not in _WEAK}
    policies = form.pick(POLICIES, strong, POLICIES)
    base, seeds = scenario("prefix"), range(form.seeds)
    return [
        *variants("prefix", base, policies, loads, seeds),
        *bounds("prefix", base, loads, seeds, "alone"),
    ]


_COLUMNS = {
    "TTFT P50 s": "ttft_p50_s",
    "TTFT P90 s": "ttft_p90_s",
    "TTFT P99 s": "ttft_p99_s",
    "decode P99 ms": "decode_p99_s",
    "goodput /s": "goodput_per_s",
    "hits %": "hit_share",
}
_FACTORS = {"decode_p99_s": 1000, "hit_share": 100}


def section(outcomes: Outcomes) -> Section:
    rows = []
    for load in outcomes.loads:
        for policy in outcomes.policies:
            if outcomes.seeds(load, policy):
                figures = (
                    outcomes.median(policy, load, m).value * _FACTORS.get(m, 1)
                    for m in _COLUMNS.values()
                )
                rows.append([load, policy, *map(figure, figures)])
    lines = [
        paragraph(
            """
            Stretches of the Mooncake conversation trace from anywhere in it, on 16 A100 with an
            8B model; goodput counts requests with TTFT <= 4 s and TPOT <= 100 ms. Medians over
            the seeds. All policies have the same queue, prefix index and cost model. `bound`: every
            request alone, with one endless cache.
            """
        ),
        "",
        *table(["load", "policy", *_COLUMNS], rows),
    ]
    ready = [load for load in outcomes.loads if outcomes.seeds(load, OURS, *BASELINES)]
    if not ready:
        return Section("Shared prefixes", lines)
    lines += ["", *_comparisons(outcomes, ready)]
    if bounded := [load for load in ready if outcomes.seeds(load, BOUND)]:
        lines += ["", _hits(outcomes, bounded)]
    plots = {"prefix": partial(_plot, outcomes)}
    return Section("Shared prefixes", lines, _targets(outcomes, ready), plots)


def _comparisons(outcomes: Outcomes, loads: Sequence[str]) -> list[str]:
    rows = [
        [
            load,
            name,
            interval(outcomes.ratio(OURS, name, load, "ttft_p90_s")),
            interval(outcomes.ratio(OURS, name, load, "goodput_per_s")),
        ]
        for load in loads
        for name in BASELINES
    ]
    return table(["load", "ours against", "TTFT P90, ratio", "goodput, ratio"], rows)


def _hits(outcomes: Outcomes, loads: Sequence[str]) -> str:
    found = ", ".join(
        " of ".join(percent(outcomes.median(p, load, "hit_share").value) for p in (OURS, BOUND))
        + f" at {load}"
        for load in loads
    )
    text = f"""Prompt tokens served from caches, against one endless cache over the same stretch:
        {found} (the whole trace's bound: 37.4 % of tokens, 36.6 % of blocks)."""
    return paragraph(text)


def _targets(outcomes: Outcomes, loads: Sequence[str]) -> list[Target]:
    best = outcomes.strongest(BASELINES, loads, "ttft_p90_s")
    ttft = outcomes.mean_ratio(OURS, best, loads, "ttft_p90_s")
    good = outcomes.strongest(BASELINES, loads, "goodput_per_s", lower=False)
    goodput = outcomes.mean_ratio(OURS, good, loads, "goodput_per_s")
    return [
        Target(
            f"TTFT P90 below that of `{best}`, the stronger of the two: ratio {interval(ttft)}",
            ttft.value < 1,
        ),
        Target(f"goodput above that of `{good}`: ratio {interval(goodput)}", goodput.value > 1),
    ]


def _plot(outcomes: Outcomes, path: Path) -> None:
    panels = {
        title: {
            policy: [
                (float(load.removeprefix("speed ")), outcomes.median(policy, load, metric))
                for load in outcomes.loads
                if outcomes.seeds(load, policy)
            ]
            for policy in outcomes.policies
        }
        for title, metric in (("TTFT P90 (s)", "ttft_p90_s"), ("goodput (/s)", "goodput_per_s"))
    }
    draw(path, panels, "speed of the trace", "")


EXPERIMENT = Experiment("prefix", cells, section, share=0.5)
