"""The command: `python -m experiments run|report|list`, with `benchmarks` on the path."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from experiments import (
    cheapest_mix,
    classes,
    failures,
    hexgen,
    llumnix,
    llumnix_cost,
    llumnix_priorities,
    llumnix_saturation,
    mixed_gpus,
    prefix,
)
from experiments.cells import ROOT, Cell, Store, code_version
from experiments.definitions import FORMS, SHORT, Experiment, Form, Section
from experiments.outcomes import Outcomes
from experiments.page import overview, replace_generated, section_lines
from experiments.runner import run_cells
from experiments.worker import data_folder, run_cell

EXPERIMENTS: Mapping[str, Experiment] = {
    one.name: one
    for one in (
        llumnix.EXPERIMENT,
        llumnix_saturation.EXPERIMENT,
        llumnix_cost.EXPERIMENT,
        llumnix_priorities.EXPERIMENT,
        hexgen.EXPERIMENT,
        prefix.EXPERIMENT,
        mixed_gpus.EXPERIMENT,
        cheapest_mix.EXPERIMENT,
        classes.EXPERIMENT,
        failures.EXPERIMENT,
    )
}
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True, slots=True)
class Chosen:
    experiment: Experiment
    form: Form

    @property
    def cells(self) -> list[Cell]:
        return self.experiment.cells(self.form)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    store = Store(options.results, code_version(), any_version=options.any_version)
    chosen = [
        Chosen(EXPERIMENTS[name], _form(name, options)) for name in options.only or EXPERIMENTS
    ]
    return {"run": _run, "report": _report, "list": _list}[options.command](chosen, store, options)


def _form(name: str, options: argparse.Namespace) -> Form:
    form = FORMS[options.form]
    shares: dict[str, float] = dict(options.share)
    whole = EXPERIMENTS[name].share if form.share is None else form.share
    share = shares.get(name, shares.get("", whole))
    return replace(form, seeds=options.seeds or form.seeds, share=share)


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.rpartition("=")
    if name and name not in EXPERIMENTS:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(EXPERIMENTS)}")
    return name, float(share)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="experiments", description=__doc__)
    parser.add_argument("command", choices=("run", "report", "list"))
    parser.add_argument(
        "--form",
        choices=list(FORMS),
        default=SHORT.name,
        help="short: two seeds of some loads; ten: ten seeds of a part of each load that a target"
        " names; full: ten seeds of every load in full length",
    )
    parser.add_argument("--only", nargs="+", choices=list(EXPERIMENTS), metavar="NAME")
    parser.add_argument("--policies", nargs="+", metavar="NAME", help="of each, only these")
    parser.add_argument("--seeds", type=int, help="instead of the form's")
    parser.add_argument(
        "--share",
        type=_share,
        nargs="+",
        default=[],
        metavar="[NAME=]SHARE",
        help="of each load's length, instead of the form's; NAME=SHARE for one experiment",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--results", type=Path, default=ROOT / ".shunter" / "experiments")
    parser.add_argument(
        "--any-version", action="store_true", help="take outcomes of other code as well"
    )
    parser.add_argument("--page", type=Path, help=f"write into this page, such as {PAGE.name}")
    return parser


def _run(chosen: Sequence[Chosen], store: Store, options: argparse.Namespace) -> int:
    if data_folder() is None:
        print("no traces ($SHUNTER_DATA): generated load of their shape", file=sys.stderr)
    cells = [cell for one in chosen for cell in one.cells]
    if options.policies:
        cells = [cell for cell in cells if cell.policy in options.policies]
    cells.sort(key=lambda cell: cell.seed)
    run = run_cells(cells, store, run_cell, options.jobs, Console(stderr=True))
    for name, why in run.failed:
        print(f"failed: {name}: {why}", file=sys.stderr)
    if run.interrupted:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 1 if run.failed else 0


def _report(chosen: Sequence[Chosen], store: Store, options: argparse.Namespace) -> int:
    """Into the page with its plots, or onto the terminal."""
    lines: list[str] = []
    sections: list[tuple[Section, str]] = []
    for one in chosen:
        outcomes = Outcomes.of(one.cells, store)
        if not outcomes.rows:
            continue
        section = one.experiment.section(outcomes)
        sections.append((section, _seeds(outcomes)))
        lines += section_lines(section, _how_much(one, outcomes), "plots")
        if options.page:
            for name, draw in section.plots.items():
                draw(options.page.parent / "plots" / f"{name}.svg")
    lines = [*overview(sections), *lines]
    if options.page:
        replace_generated(options.page, lines)
    else:
        print("\n".join(lines))
    return 0


def _how_much(one: Chosen, outcomes: Outcomes) -> str:
    """What of the whole experiment the figures come from."""
    cells = one.cells
    done = sum(len(by_seed) for by_seed in outcomes.rows.values())
    text = f"{_seeds(outcomes)}, {one.form.share:.0%} of each run's full length"
    text += one.form.pick(", some of the loads", ", the loads that targets name", "")
    text += f"; {done} of {len(cells)} runs." if done < len(cells) else f"; {done} runs."
    return " ".join([text, *(f"Note: {note}." for note in outcomes.notes)])


def _seeds(outcomes: Outcomes) -> str:
    """Of the rows that have run."""
    counts = {len(by_seed) for by_seed in outcomes.rows.values()}
    least, most = min(counts), max(counts)
    if least < most:
        return f"{least} to {most} seeds"
    return "1 seed" if most == 1 else f"{most} seeds"


def _list(chosen: Sequence[Chosen], store: Store, options: argparse.Namespace) -> int:
    for one in chosen:
        cells = one.cells
        print(f"{one.experiment.name}: {len(cells)} cells, {len(store.missing(cells))} to run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
