"""The command: `python -m experiments run|report|list`, with `benchmarks` on the path."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from experiments import classes, failures, hexgen, llumnix, mixed_gpus, prefix
from experiments.cells import ROOT, Store, code_version
from experiments.definitions import FULL, SHORT, Experiment, Form
from experiments.outcomes import Outcomes
from experiments.page import replace_generated, section_lines
from experiments.runner import run_cells
from experiments.worker import data_folder, run_cell

EXPERIMENTS: Mapping[str, Experiment] = {
    one.name: one
    for one in (
        llumnix.EXPERIMENT,
        llumnix.COST,
        llumnix.PRIORITIES,
        hexgen.EXPERIMENT,
        prefix.EXPERIMENT,
        mixed_gpus.EXPERIMENT,
        mixed_gpus.MIX,
        classes.EXPERIMENT,
        failures.EXPERIMENT,
    )
}
PAGE = ROOT / "docs" / "benchmarks.md"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    form = FULL if options.full else SHORT
    if options.seeds is not None or options.share is not None:
        form = Form(
            "own", options.seeds or form.seeds, options.share or form.share, form.every_load
        )
    store = Store(options.results, code_version(), any_version=options.any_version)
    chosen = [EXPERIMENTS[name] for name in options.only or EXPERIMENTS]
    run = {"run": _run, "report": _report, "list": _list}[options.command]
    return run(chosen, form, store, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="experiments", description=__doc__)
    parser.add_argument("command", choices=("run", "report", "list"))
    parser.add_argument("--full", action="store_true", help="every load, ten seeds, full length")
    parser.add_argument("--only", nargs="+", choices=list(EXPERIMENTS), metavar="NAME")
    parser.add_argument("--seeds", type=int, help="instead of the form's")
    parser.add_argument("--share", type=float, help="of each load's length, instead of the form's")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--results", type=Path, default=ROOT / ".shunter" / "experiments")
    parser.add_argument(
        "--any-version", action="store_true", help="take outcomes of other code as well"
    )
    parser.add_argument("--page", type=Path, help=f"write into this page, such as {PAGE.name}")
    return parser


def _run(
    chosen: Sequence[Experiment], form: Form, store: Store, options: argparse.Namespace
) -> int:
    if data_folder() is None:
        print("no traces ($SHUNTER_DATA): generated load of their shape", file=sys.stderr)
    cells = [cell for experiment in chosen for cell in experiment.cells(form)]
    cells.sort(key=lambda cell: cell.seed)
    run = run_cells(cells, store, run_cell, options.jobs, Console(stderr=True))
    for name, why in run.failed:
        print(f"failed: {name}: {why}", file=sys.stderr)
    if run.interrupted:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 1 if run.failed else 0


def _report(
    chosen: Sequence[Experiment], form: Form, store: Store, options: argparse.Namespace
) -> int:
    """Into the page with its plots, or onto the terminal."""
    lines = [f"Form: {form.name}, {form.seeds} seeds, {form.share:.0%} of each load's length."]
    for experiment in chosen:
        outcomes = Outcomes.of(experiment.cells(form), store)
        if not outcomes.rows:
            continue
        section = experiment.section(outcomes)
        lines += section_lines(section, "plots")
        lines += [line for note in outcomes.notes for line in ("", f"Note: {note}.")]
        if options.page:
            for name, draw in section.plots.items():
                draw(options.page.parent / "plots" / f"{name}.svg")
    if options.page:
        replace_generated(options.page, lines)
    else:
        print("\n".join(lines))
    return 0


def _list(
    chosen: Sequence[Experiment], form: Form, store: Store, options: argparse.Namespace
) -> int:
    for experiment in chosen:
        cells = experiment.cells(form)
        print(f"{experiment.name}: {len(cells)} cells, {len(store.missing(cells))} to run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
