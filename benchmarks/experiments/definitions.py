"""What an experiment is, and the variants of a scenario that it runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from experiments.cells import ROOT, Cell, merge
from experiments.outcomes import Outcomes

SCENARIOS = ROOT / "benchmarks" / "scenarios"
BOUND = "bound"
"""The row of what no policy can do better."""
T = TypeVar("T")
Overrides = Mapping[str, Mapping[str, Any]]
"""By name, what a variant has in place of the scenario's own fields."""


Extent = Literal["some", "judged", "every"]
"""Of loads and policies: some, all that a target names, or every one."""


@dataclass(frozen=True, slots=True)
class Form:
    """How much of an experiment is run: `share` of each load's requests or time, and which loads
    and policies. `share` None is for each experiment the smallest that keeps its regime."""

    name: str
    seeds: int
    share: float | None
    extent: Extent

    def length(self, full: float) -> float:
        """Of what has this length in full form."""
        assert self.share is not None, "an experiment puts its own share here"
        return full * self.share

    def pick(self, some: T, judged: T, every: T) -> T:
        return {"some": some, "judged": judged, "every": every}[self.extent]


SHORT = Form("short", seeds=2, share=0.2, extent="some")
TEN = Form("ten", seeds=10, share=None, extent="judged")
FULL = Form("full", seeds=10, share=1.0, extent="every")
FORMS: Mapping[str, Form] = {form.name: form for form in (SHORT, TEN, FULL)}


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
    """`section` is given what has finished, which may be less than all cells. `share` is the part
    of the full length that is long enough to compare policies on ten seeds."""

    name: str
    cells: Callable[[Form], list[Cell]]
    section: Callable[[Outcomes], Section]
    share: float


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


def bounds(
    experiment: str, base: Mapping[str, Any], loads: Overrides, seeds: Iterable[int], way: str
) -> list[Cell]:
    """The row `BOUND` of every load, worked out by `way`."""
    return [
        Cell(experiment, BOUND, load, seed, merge(base, over), way)
        for seed in seeds
        for load, over in loads.items()
    ]


def dispatch(name: str, **more: Any) -> dict[str, Any]:
    """A policy that picks by `name`, all else as the scenario has it."""
    return merge({"policy": {"dispatch": {"policy": name}}}, more)


def minutes(full: float, form: Form) -> str:
    """A duration of so many minutes in full form."""
    return f"{round(form.length(full * 60))}s"
