"""Four panels: distributions of TTFT, TPOT and end-to-end time, and load over time."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shunter.bench.records import Record
from shunter.bench.report import Slo
from shunter.failure import Failure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_BINS = 120


def save_plot(records: Sequence[Record], slo: Slo, path: Path) -> None:
    """Raises `Failure` where matplotlib is missing or the file cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Failure("--plot needs matplotlib", "pip install 'shunter[plots]'") from error
    figure = Figure(figsize=(11, 7), layout="constrained")
    ((ttft, tpot), (e2e, load)) = figure.subplots(2, 2)
    good = [r for r in records if not r.error]
    first_tokens = [r.first_token_s for r in good if r.first_token_s is not None]
    _distribution(ttft, "TTFT (s)", first_tokens, slo.ttft_s)
    _distribution(tpot, "TPOT (s)", [t for r in good if (t := r.tpot_s) is not None], slo.tpot_s)
    _distribution(e2e, "end to end (s)", [r.end_s for r in good], None)
    _load(load, records)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise Failure(f"cannot write the plot {path}: {error}") from error


def _distribution(axes: "Axes", label: str, values: Sequence[float], target: float | None) -> None:
    if values:
        x = np.sort(values)
        axes.plot(x, np.arange(1, len(x) + 1) / len(x))
    if target is not None:
        axes.axvline(target, color="tab:red", linestyle="--", label="SLO")
        axes.legend(loc="lower right")
    axes.set(xlabel=label, ylabel="share of requests", ylim=(0, 1.02))
    axes.grid(alpha=0.3)


def _load(axes: "Axes", records: Sequence[Record]) -> None:
    times, in_flight, arrivals = load_over_time(records)
    axes.plot(times, in_flight, label="in flight")
    axes.set(xlabel="time (s)", ylabel="requests in flight", ylim=(0, None))
    right = axes.twinx()
    right.plot(times, arrivals, color="tab:orange", alpha=0.7, label="arrivals/s")
    right.set(ylabel="arrivals per second", ylim=(0, None))
    axes.grid(alpha=0.3)
    lines = [*axes.get_lines(), *right.get_lines()]
    axes.legend(lines, [str(line.get_label()) for line in lines], loc="upper right")


def load_over_time(
    records: Sequence[Record],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """At each bin's end: seconds, requests in flight then, arrivals per second in the bin."""
    due = np.sort([r.due_s for r in records])
    ends = np.sort([r.due_s + r.end_s for r in records])
    end_s = float(ends[-1]) if len(ends) else 1.0
    bins = min(_MAX_BINS, max(1, round(end_s)))  # a second at least
    edges = np.linspace(0.0, end_s, bins + 1)
    arrived, ended = (np.searchsorted(t, edges[1:], side="right") for t in (due, ends))
    rate = np.histogram(due, edges)[0] / np.diff(edges)
    return edges[1:], (arrived - ended).astype(np.float64), rate
