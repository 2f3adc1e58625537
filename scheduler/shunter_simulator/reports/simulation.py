"""From the results of a simulated run to its figures: pure arithmetic over columns."""

from collections import Counter
from collections.abc import Iterable
from math import inf

import numpy as np
from numpy.typing import NDArray

from shunter_simulator.reports.figures import Slo, summary
from shunter_simulator.reports.simulation_report import (
    Figures,
    Goodput,
    Latencies,
    LoadPoints,
    Money,
    MoveCount,
    Prefix,
    SimulationReport,
    Workflows,
)
from shunter_simulator.virtual.results import Results, Targets

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

MAX_POINTS = 240


def build_report(results: Results) -> SimulationReport:
    table = RequestTable(results)
    counted = table.counted
    return SimulationReport(
        scenario=results.scenario,
        seed=results.seed,
        policy=results.policy,
        duration_s=results.duration_s,
        warmup_s=results.warmup_s,
        left_out=int((~counted).sum()),
        notes=list(results.notes),
        outcomes=_outcomes(results, counted),
        overall=table.figures(counted),
        classes=table.by("slo_class"),
        tenants=table.by("tenant"),
        pools=table.by("pool"),
        moves=_moves(results),
        counters=dict(results.counters),
        prefix=_prefix(results, counted & results.finished),
        workflows=_workflows(results),
        money=_money(results, table),
        load=_load(results),
    )


class RequestTable:
    """The columns of a run with what follows from them per request."""

    def __init__(self, results: Results) -> None:
        columns = results.columns
        self._results = results
        self.counted: Mask = columns["arrival_s"] >= results.warmup_s
        self.span_s = max(0.0, results.duration_s - results.warmup_s)
        self.tpot_s = decode_latency_s(results)
        self.met = self._met()

    def _met(self) -> Mask:
        results, columns = self._results, self._results.columns
        met = np.zeros(len(columns["arrival_s"]), np.bool_)
        for (pool, slo_class), targets in results.targets.items():
            of_class = columns["slo_class"] == results.code("slo_class", slo_class)
            mine = of_class & (columns["pool"] == results.code("pool", pool))
            if mine.any():
                times = columns["ttft_s"], self.tpot_s, columns["e2e_s"]
                met[mine] = slo_of(targets).met(*(one[mine] for one in times))
        return met & results.finished

    def by(self, name: str) -> dict[str, Figures]:
        """Of each value of a column of names, in order; nothing where there is only ""."""
        results = self._results
        codes = np.unique(results.columns[name][self.counted]).tolist()
        if codes in ([], [0]):
            return {}
        mine = {results.names[name][code]: results.columns[name] == code for code in codes}
        return {text: self.figures(mine[text] & self.counted) for text in sorted(mine)}

    def figures(self, mine: Mask) -> Figures:
        columns, finished = self._results.columns, self._results.finished
        good, count = mine & finished, int(mine.sum())
        per_s = 1 / self.span_s if self.span_s > 0 else 0.0
        met, outputs = int((self.met & mine).sum()), int(columns["output_tokens"][good].sum())
        loss_s = float(columns["preemption_loss_s"][mine].sum())
        return Figures(
            requests=count,
            finished=int(good.sum()),
            prompt_tokens=int(columns["prompt_tokens"][good].sum()),
            output_tokens=outputs,
            requests_per_s=int(good.sum()) * per_s,
            output_tokens_per_s=outputs * per_s,
            preemptions=int(columns["preemptions"][mine].sum()),
            preemption_loss_s=loss_s / count if count else 0.0,
            moves=int(columns["moves"][mine].sum()),
            latencies=self._latencies(good),
            goodput=Goodput(met, met * per_s, met / count if count else 0.0),
        )

    def _latencies(self, good: Mask) -> Latencies:
        columns = self._results.columns
        stalled = good & (columns["stall_s"] > 0)
        return Latencies(
            ttft_s=summary(columns["ttft_s"][good]),
            tpot_s=summary(known(self.tpot_s[good])),
            e2e_s=summary(columns["e2e_s"][good]),
            queueing_s=summary(columns["queued_s"][good]),
            stall_s=summary(columns["stall_s"][stalled]),
        )


def decode_latency_s(results: Results) -> Floats:
    """(last token - first token) / (tokens - 1) of each answer; NaN where there is no second."""
    columns = results.columns
    rest = np.maximum(1, columns["output_tokens"] - 1)
    tpot_s = (columns["e2e_s"] - columns["ttft_s"]) / rest
    return np.asarray(np.where(columns["output_tokens"] > 1, tpot_s, np.nan))


def known(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def slo_of(targets: Targets) -> Slo:
    return Slo(
        inf if targets.ttft_s is None else targets.ttft_s,
        inf if targets.tpot_s is None else targets.tpot_s,
        inf if targets.e2e_s is None else targets.e2e_s,
    )


def _outcomes(results: Results, counted: Mask) -> dict[str, int]:
    counts = Counter(results.text("outcome")[counted].tolist())
    return dict(sorted(counts.items()))


def _moves(results: Results) -> list[MoveCount]:
    stalls: dict[tuple[str, str, str], list[float]] = {}
    for move in results.moves:
        stalls.setdefault((move.reason, move.rung, move.why_not), []).append(move.stall_s)
    return [
        MoveCount(*key, len(values), None if key[2] else summary(values))
        for key, values in sorted(stalls.items())
    ]


def _prefix(results: Results, good: Mask) -> Prefix:
    names = ("prompt_tokens", "cached_tokens", "predicted_cached_tokens")
    return Prefix(*(int(results.columns[name][good].sum()) for name in names))


def _workflows(results: Results) -> Workflows | None:
    codes = results.columns["workflow"]
    if not codes.any():
        return None
    began = np.full(len(results.names["workflow"]), inf)
    ended, good = np.zeros_like(began), np.ones(len(began), np.bool_)
    arrival_s = results.columns["arrival_s"]
    np.minimum.at(began, codes, arrival_s)
    np.maximum.at(ended, codes, arrival_s + results.columns["e2e_s"])
    np.logical_and.at(good, codes, results.finished)
    due = np.full_like(began, inf)
    has_due = ~np.isnan(results.columns["due_s"])
    due[codes[has_due]] = results.columns["due_s"][has_due]
    counted = (began >= results.warmup_s) & (began < inf)
    counted[0] = False  # those that belong to none
    good &= counted
    in_time = int((good & (ended <= due)).sum())
    return Workflows(int(counted.sum()), int(good.sum()), in_time, summary((ended - began)[good]))


def _money(results: Results, table: RequestTable) -> Money:
    by_profile: dict[str, float] = {}
    for use in results.instances:
        key = f"{use.pool}/{use.profile}"
        by_profile[key] = by_profile.get(key, 0.0) + use.dollars
    tokens = int(results.columns["output_tokens"][results.finished].sum())
    return Money(
        results.dollars,
        sum(use.seconds for use in results.instances) / 3600,
        by_profile,
        results.dollars / tokens * 1e6 if tokens else None,
    )


def _load(results: Results) -> LoadPoints:
    load = results.load
    step = max(1, -(-len(load.at_s) // MAX_POINTS))
    return LoadPoints(
        load.at_s[::step].tolist(),
        load.in_flight[::step].tolist(),
        _rounded(load.running[::step].sum(axis=1)),
        _rounded(load.waiting[::step].sum(axis=1)),
        _rounded(load.kv_usage[::step].mean(axis=1)) if load.instances else [],
    )


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 4) for value in values]
