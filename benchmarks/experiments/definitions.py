"""What an experiment is, and the variants of a scenario that it runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from experiments.cells import ROOT, Cell, merge
from experiments.outcomes import Outcomes

SCENARIOS = ROOT / "benchmarks" / "scenarios"
Overrides = Mapping[str, Mapping[str, Any]]
"""By name, what a variant has in place of the scenario's own fields."""


@dataclass(frozen=True, slots=True)
class Form:
    """How much of an experiment is run: `share` of each load's requests or time, and of loads only
    those that matter most unless `every_load`."""

    name: str
    seeds: int
    share: float
    every_load: bool


SHORT = Form("short", seeds=2, share=0.2, every_load=False)
FULL = Form("full", seeds=10, share=1.0, every_load=True)


@dataclass(frozen=True, slots=True)
class Target:
    """`text` says what is to be reached and what was found."""

    text: str
    reached: bool


@dataclass(frozen=True, slots=True)
class Section:
    """An experiment's part of the page. `plots` are drawn as SVG by name."""

    title: str
    lines: Sequence[str]
    targets: Sequence[Target] = ()
    plots: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Experiment:
    """`section` is given what has finished, which may be less than all cells."""

    name: str
    cells: Callable[[Form], list[Cell]]
    section: Callable[[Outcomes], Section]


def scenario(name: str) -> dict[str, Any]:
    """The fields of a file of `benchmarks/scenarios`."""
    fields = yaml.safe_load((SCENARIOS / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(fields, dict)
    return fields


def variants(
    experiment: str,
    base: Mapping[str, Any],
    policies: Overrides,
    loads: Overrides,
    seeds: Iterable[int],
) -> list[Cell]:
    """Every policy on every load with every seed, seed by seed, so that what has run when it is
    broken off can be compared."""
    return [
        Cell(experiment, policy, load, seed, merge(merge(base, load_over), policy_over))
        for seed in seeds
        for load, load_over in loads.items()
        for policy, policy_over in policies.items()
    ]


def dispatch(name: str, **more: Any) -> dict[str, Any]:
    """A policy that picks by `name`, all else as the scenario has it."""
    return merge({"policy": {"dispatch": {"policy": name}}}, more)


def minutes(full: float, form: Form) -> str:
    """A duration of so many minutes in full form."""
    return f"{round(full * 60 * form.share)}s"
