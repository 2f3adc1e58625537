"""Panels of plots. matplotlib is an optional extra: it is imported when something is drawn."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Panel = Callable[["Axes"], object]
Scale = Literal["linear", "log"]

FORMATS = (".png", ".svg")
_NO_MATPLOTLIB = ("plots need matplotlib", "pip install 'shunter[plots]'")
_MAX_BINS = 120
_MAX_POINTS = 2000


class PlotError(Exception):
    """The plot cannot be drawn; `next_step` says what would help."""

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step


def check_plot(path: Path) -> None:
    """Raises `PlotError` where nothing could be drawn into `path` whatever the data."""
    if path.suffix.lower() not in FORMATS:
        raise PlotError(f"cannot write the plot {path}: its name ends in {' or '.join(FORMATS)}")
    if find_spec("matplotlib") is None:
        raise PlotError(*_NO_MATPLOTLIB)


def save_panels(panels: Sequence[Panel], path: Path, title: str = "") -> None:
    """Two to a row, into a PNG or SVG. Raises `PlotError`."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError(*_NO_MATPLOTLIB) from error
    rows = -(-len(panels) // 2)
    with rc_context({"svg.hashsalt": "shunter"}):  # else each SVG has ids of its own
        figure = Figure(figsize=(11, 3.5 * rows), layout="constrained")
        cells = figure.subplots(rows, 2, squeeze=False).ravel().tolist()
        for axes, panel in zip(cells, panels, strict=False):
            panel(axes)
        for axes in cells[len(panels) :]:
            axes.set_axis_off()
        if title:
            figure.suptitle(title)
        try:
            figure.savefig(path, metadata=_metadata(path))
        except (OSError, ValueError) as error:
            raise PlotError(f"cannot write the plot {path}: {error}") from error


def _metadata(path: Path) -> dict[str, None]:
    """Without the date: equal data make equal files."""
    return {"Date": None} if path.suffix == ".svg" else {}


def distribution(
    axes: "Axes",
    label: str,
    lines: Sequence[tuple[str, ArrayLike]],
    target: float | None = None,
    scale: Scale = "linear",
) -> None:
    """Cumulative shares of each line's values; lines without a name get no legend."""
    for name, values in lines:
        x, y = cumulative(values)
        if len(x):
            axes.plot(x, y, label=name or None)
    if target is not None:
        axes.axvline(target, color="tab:red", linestyle="--", label="SLO")
    axes.set(xlabel=label, ylabel="share of requests", xscale=scale, ylim=(0, 1.02))
    if scale == "log":
        axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right")


def cumulative(values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values in order and the share of all that is no larger; of many values evenly spaced ones,
    the extremes included."""
    x = np.sort(np.asarray(values, dtype=np.float64))
    y = np.arange(1, len(x) + 1) / max(1, len(x))
    if len(x) > _MAX_POINTS:
        chosen = np.unique(np.linspace(0, len(x) - 1, _MAX_POINTS).round().astype(np.int64))
        return x[chosen], y[chosen]
    return x, y


def load_panel(axes: "Axes", began_s: ArrayLike, ended_s: ArrayLike) -> None:
    """Requests in flight and arrivals per second."""
    times, in_flight, arrivals = load_over_time(began_s, ended_s)
    axes.plot(times, in_flight, label="in flight")
    axes.set(xlabel="time (s)", ylabel="requests in flight", ylim=(0, None))
    right = axes.twinx()
    right.plot(times, arrivals, color="tab:orange", alpha=0.7, label="arrivals/s")
    right.set(ylabel="arrivals per second", ylim=(0, None))
    axes.grid(alpha=0.3)
    legend_of(axes, right)


def legend_of(axes: "Axes", right: "Axes") -> None:
    """One for the lines of both scales, in front of them."""
    lines = [*axes.get_lines(), *right.get_lines()]
    right.legend(lines, [str(line.get_label()) for line in lines], loc="upper right")


def load_over_time(
    began_s: ArrayLike, ended_s: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """At each bin's end: seconds, requests in flight then, arrivals per second in the bin."""
    began, ended = np.sort(np.asarray(began_s)), np.sort(np.asarray(ended_s))
    end_s = float(ended[-1]) if len(ended) else 1.0
    bins = min(_MAX_BINS, max(1, round(end_s)))  # a second at least
    edges = np.linspace(0.0, end_s, bins + 1)
    arrived, gone = (np.searchsorted(t, edges[1:], side="right") for t in (began, ended))
    rate = np.histogram(began, edges)[0] / np.diff(edges)
    return edges[1:], (arrived - gone).astype(np.float64), rate
