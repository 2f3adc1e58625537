"""The table and the plot of `benchmarks/moves.py`."""

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from moves_cells import ENGINES, RUNGS
from moves_runs import Row, read_rows

from shunter_simulator.reports.plots import Panel, save_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEAD = (
    "| engine | rung | context | moved | step ms | stall ms P50 | P90 | in steps | MiB "
    "| others' steps | equal | load |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def load_rows(results: Path) -> list[Row]:
    """In the order of the cells."""
    engines, rungs = list(ENGINES), list(RUNGS)

    def place(row: Row) -> tuple[int, int, int]:
        return engines.index(row.engine), rungs.index(row.rung), row.context  # type: ignore[arg-type]

    return sorted(read_rows(results), key=place)


def table(rows: Sequence[Row]) -> str:
    """Stalls of moves that were carried out by their rung. A step is the mean gap of the
    neighbours before; `others' steps` is how much longer it was from the command to the switch;
    `load` is the machine's."""
    lines = [HEAD]
    for (engine, rung, context), group in groupby(rows, _cell):
        found = list(group)
        moved = [row for row in found if row.moved]
        head = f"| {engine} | {rung} | {context:,} | {len(moved)} of {len(found)} |"
        if not moved:
            lines.append(f"{head} | | | | | | | {_load(found)} |")
            continue
        stalls_ms = [1e3 * row.stall_s for row in moved]
        step_ms = 1e3 * _mean(moved, lambda r: r.neighbours_before)
        steps = float(np.median(stalls_ms)) / step_ms
        mib = float(np.median([row.kv_bytes for row in moved])) / 2**20
        equal = sum(row.equal for row in moved) / len(moved)
        lines.append(
            f"{head} {step_ms:.1f} | {np.median(stalls_ms):.1f} | "
            f"{np.percentile(stalls_ms, 90):.1f} | {steps:.2f} | {mib:.1f} | "
            f"{_others(moved)} | {equal:.0%} | {_load(found)} |"
        )
    return "\n".join(lines)


def _cell(row: Row) -> tuple[str, str, int]:
    return row.engine, row.rung, row.context


def _load(found: Sequence[Row]) -> str:
    loads = [row.load for row in found if row.load]
    return f"{np.median(loads):.1f}" if loads else ""


def _others(moved: Sequence[Row]) -> str:
    """Nothing where the switch comes at once: no neighbour has a gap before it."""
    if not any(row.neighbours_during[0] for row in moved):
        return ""
    before = _mean(moved, lambda r: r.neighbours_before)
    return f"{_mean(moved, lambda r: r.neighbours_during) / before - 1:+.1%}"


def _mean(moved: Sequence[Row], pick: Callable[[Row], tuple[int, float]]) -> float:
    gaps = sum(pick(row)[0] for row in moved)
    return sum(pick(row)[1] for row in moved) / gaps if gaps else float("nan")


def draw(rows: Sequence[Row], path: Path) -> None:
    """Stall against context, one panel an engine."""
    names = [name for name in ENGINES if any(row.engine == name for row in rows)]
    save_panels([_panel(name, rows) for name in names], path, "Stall of a move")


def _panel(engine: str, rows: Sequence[Row]) -> Panel:
    def panel(axes: "Axes") -> None:
        for rung in RUNGS:
            moved = [r for r in rows if (r.engine, r.rung, r.moved) == (engine, rung, True)]
            by_context = [
                (c, [1e3 * r.stall_s for r in g]) for (_, _, c), g in groupby(moved, _cell)
            ]
            if by_context:
                contexts = [context for context, _ in by_context]
                medians = [float(np.median(stalls)) for _, stalls in by_context]
                axes.plot(contexts, medians, marker="o", label=rung)
        axes.set(title=engine, xlabel="context (tokens)", ylabel="stall, median (ms)")
        axes.set_xscale("log", base=2)
        contexts = sorted({row.context for row in rows if row.engine == engine})
        axes.set_xticks(contexts, [f"{context:,}" for context in contexts])
        low, high = axes.get_ylim()
        if high > 20 * max(low, 1.0):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.legend()

    return panel
