"""Small SVG plots: one figure a file, text kept as text."""

from collections.abc import Mapping, Sequence
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = Mapping[str, Sequence[tuple[float, Interval]]]
"""By policy, points (x, estimate)."""
_MOST_TICKS = 6
_LEGEND_INCHES = 1.2


def draw(path: Path, panels: Mapping[str, Series], x: str, y: str, *, log: bool = False) -> None:
    """One panel a load, side by side; bars are the 95 % intervals of the median. A policy has one
    colour in all."""
    figure = _figure(len(panels))
    colours = {name: f"C{n}" for n, name in enumerate(dict.fromkeys(chain(*panels.values())))}
    for axes, (title, series) in zip(figure.axes, panels.items(), strict=True):
        for policy, points in series.items():
            _line(axes, policy, points, colours[policy])
        at = sorted({x for points in series.values() for x, _ in points})
        if len(at) <= _MOST_TICKS:
            axes.set_xticks(at, [f"{x:g}" for x in at])
        if len(at) == 1:
            axes.set_xlim(at[0] * 0.8, at[0] * 1.2)
        axes.set_title(title, fontsize=8)
        axes.set_xlabel(x, fontsize=7)
        if log:
            _log_scale(axes)
    figure.axes[0].set_ylabel(y, fontsize=7)
    _legend(figure)
    _save(figure, path)


def draw_curves(
    path: Path, shares: Sequence[float], panels: Mapping[str, Mapping[str, Sequence[float]]], x: str
) -> None:
    """Distributions, the share above on a log scale so that tails are seen."""
    figure = _figure(len(panels))
    for axes, (title, curves) in zip(figure.axes, panels.items(), strict=True):
        for policy, quantiles in curves.items():
            axes.plot(quantiles[:-1], [1 - share for share in shares[:-1]], label=policy, lw=1)
        axes.set(xscale="log", yscale="log")
        axes.set_title(title, fontsize=8)
        axes.set_xlabel(x, fontsize=7)
    figure.axes[0].set_ylabel("share of requests above", fontsize=7)
    _legend(figure)
    _save(figure, path)


def draw_points(
    path: Path, series: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str
) -> None:
    """One panel of lines through points, `y` on a log scale."""
    figure = _figure(1)
    (axes,) = figure.axes
    for policy, points in series.items():
        axes.plot(*zip(*sorted(points), strict=True), label=policy, lw=1, marker=".", ms=4)
    _log_scale(axes)
    axes.set_xlabel(x, fontsize=7)
    axes.set_ylabel(y, fontsize=7)
    _legend(figure)
    _save(figure, path)


def _line(axes: "Axes", policy: str, points: Sequence[tuple[float, Interval]], colour: str) -> None:
    shown = [(x, e) for x, e in points if isfinite(e.value)]
    below = [e.value - e.low if isfinite(e.low) else 0.0 for _, e in shown]
    above = [e.high - e.value if isfinite(e.high) else 0.0 for _, e in shown]
    axes.errorbar(
        [x for x, _ in shown],
        [e.value for _, e in shown],
        yerr=(below, above),
        label=policy,
        color=colour,
        lw=1,
        elinewidth=0.6,
        marker=".",
        ms=4,
    )


def _figure(panels: int):  # type: ignore[no-untyped-def]  # matplotlib has no types
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "shunter"})
    figure = Figure(figsize=(2.6 * panels + _LEGEND_INCHES, 2.3), layout="constrained")
    for axes in figure.subplots(1, panels, squeeze=False)[0]:
        axes.tick_params(labelsize=6)
        axes.grid(alpha=0.3, lw=0.4)
    return figure


def _log_scale(axes: "Axes") -> None:
    """With ticks at 1 and 3 of each decade, since many a panel spans less than one."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _legend(figure) -> None:  # type: ignore[no-untyped-def]
    """Beside the panels, of what any of them shows."""
    found = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(found.values(), found.keys(), loc="outside right upper", fontsize=6)


def _save(figure, path: Path) -> None:  # type: ignore[no-untyped-def]
    for axes in figure.axes:
        axes.minorticks_off()  # a third of a file's bytes
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
