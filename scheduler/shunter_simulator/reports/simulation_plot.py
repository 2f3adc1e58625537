"""Panels of a simulated run: distributions of latency by class, load over time, moves."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shunter_simulator.reports.plots import (
    Panel,
    Scale,
    distribution,
    legend_of,
    load_panel,
    save_panels,
)
from shunter_simulator.reports.simulation import Floats, decode_latency_s, known
from shunter_simulator.virtual.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CLASSES = 8
_MOVE_BINS = 60

Lines = list[tuple[str, Floats]]


def save_plot(results: Results, path: Path) -> None:
    """Raises `PlotError` where matplotlib is missing or the file cannot be written."""
    columns = results.columns
    latencies: tuple[tuple[str, Floats, Scale], ...] = (
        ("TTFT (s)", columns["ttft_s"], "log"),
        ("TPOT (s)", decode_latency_s(results), "linear"),
        ("end to end (s)", columns["e2e_s"], "log"),
    )
    panels: list[Panel] = [
        *(
            partial(distribution, label=label, lines=_by_class(results, values), scale=scale)
            for label, values, scale in latencies
        ),
        partial(
            load_panel,
            began_s=columns["arrival_s"],
            ended_s=columns["arrival_s"] + columns["e2e_s"],
        ),
        partial(_engines, results=results),
        partial(_moves, results=results),
    ]
    title = f"{results.scenario}: {results.policy}, seed {results.seed}"
    save_panels(panels, path, title)


def _by_class(results: Results, values: Floats) -> Lines:
    """Of requests that finished after the warm-up, one line per class."""
    good = results.finished & (results.columns["arrival_s"] >= results.warmup_s)
    classes, codes = results.names["slo_class"], results.columns["slo_class"]
    lines = [(name, known(values[good & (codes == code)])) for code, name in enumerate(classes)]
    return [(name, of_class) for name, of_class in lines if len(of_class)][:MAX_CLASSES]


def _engines(axes: "Axes", results: Results) -> None:
    """Each instance's used KV memory as the band between the least and the most, and their mean;
    sequences that wait in engines."""
    load = results.load
    if len(load.at_s) and load.instances:
        usage = load.kv_usage
        axes.fill_between(load.at_s, usage.min(axis=1), usage.max(axis=1), alpha=0.25)
        axes.plot(load.at_s, usage.mean(axis=1), label="mean; band: least to most")
        right = axes.twinx()
        waiting = load.waiting.sum(axis=1)
        right.plot(load.at_s, waiting, color="tab:orange", alpha=0.7, label="waiting")
        right.set(ylabel="waiting in engines", ylim=(0, None))
        legend_of(axes, right)
    axes.set(xlabel="time (s)", ylabel="used share of KV memory", ylim=(0, 1.02))
    axes.grid(alpha=0.3)


def _moves(axes: "Axes", results: Results) -> None:
    """Moves that were carried out, by reason."""
    edges = np.linspace(0.0, max(1.0, results.duration_s), _MOVE_BINS + 1)
    at_s: dict[str, list[float]] = {}
    for move in results.moves:
        if move.moved:
            at_s.setdefault(f"{move.reason} ({move.rung})", []).append(move.at_s)
    if at_s:
        reasons = sorted(at_s)
        axes.hist([at_s[r] for r in reasons], bins=edges.tolist(), stacked=True, label=reasons)
        axes.legend(loc="upper right")
    else:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center")
    axes.set(xlabel="time (s)", ylabel="moves", xlim=(0, edges[-1]), ylim=(0, None))
    axes.grid(alpha=0.3)
