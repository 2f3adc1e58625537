"""A cell of an experiment: one scenario, one seed; and where its outcome is kept."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parents[2]
# What an outcome depends on, beside its scenario, its seed and the traces.
_CODE = (
    "scheduler/shunter_api",
    "scheduler/shunter_scheduler",
    "scheduler/shunter_simulator",
    "benchmarks/experiments/bounds.py",
    "benchmarks/experiments/goodput_bound.py",
    "benchmarks/experiments/measures.py",
)


class Outcome(msgspec.Struct, frozen=True):
    """What one run measured: `metrics` by name, `note` on its load, `cpu_s` that it took,
    `curves` with quantiles."""

    metrics: dict[str, float]
    note: str = ""
    cpu_s: float = 0.0
    curves: dict[str, list[float]] = {}


@dataclass(frozen=True, slots=True)
class Cell:
    """`policy` and `load` are the row and the column under which its figures appear. With `bound`
    the scenario is not run: what no policy can do better there is worked out, in the way of this
    name (`bounds.BOUNDS`)."""

    experiment: str
    policy: str
    load: str
    seed: int
    scenario: Mapping[str, Any]
    bound: str = ""

    @property
    def name(self) -> str:
        return f"{self.experiment} {self.load} {self.policy} seed {self.seed}"

    @property
    def text(self) -> str:
        """What a worker gets."""
        fields = {"seed": self.seed, "scenario": self.scenario}
        return json.dumps(fields | ({"bound": self.bound} if self.bound else {}), sort_keys=True)


def code_version(root: Path = ROOT) -> str:
    """A digest of all code that outcomes depend on."""
    digest = hashlib.sha256()
    for part in _CODE:
        path = root / part
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `over` says instead; mappings are merged, all else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


class Store:
    """One JSON file per finished cell, named by its scenario and seed and by the code's version."""

    def __init__(self, folder: Path, version: str, *, any_version: bool = False) -> None:
        """`any_version` takes outcomes of other code for finished as well."""
        self._folder, self._version, self._any = folder, version, any_version
        folder.mkdir(parents=True, exist_ok=True)

    def find(self, cell: Cell) -> Outcome | None:
        """None where it has not run. A file that cannot be read counts as that."""
        name = _digest(cell)
        pattern = f"{name}-*.json" if self._any else f"{name}-{self._version}.json"
        for path in sorted(self._folder.glob(pattern), key=_changed, reverse=True):
            try:
                return msgspec.json.decode(path.read_bytes(), type=Outcome)
            except (OSError, msgspec.MsgspecError):
                continue
        return None

    def save(self, cell: Cell, outcome: Outcome) -> None:
        """Whole or not at all."""
        path = self._folder / f"{_digest(cell)}-{self._version}.json"
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(msgspec.json.encode(outcome))
        part.replace(path)

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """What is alike under several loads is named once."""
        unlike = {cell.text: cell for cell in cells}
        return [cell for cell in unlike.values() if self.find(cell) is None]


def _digest(cell: Cell) -> str:
    return hashlib.sha256(cell.text.encode()).hexdigest()[:20]


def _changed(path: Path) -> float:
    return path.stat().st_mtime
