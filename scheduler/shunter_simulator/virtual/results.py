"""What a simulated run gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shunter_simulator.virtual.columns import Column

FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class MoveRecord:
    """One move that was carried out or given up. `stall_s`: between the last token that the source
    gave and the first of the destination."""

    at_s: float
    request: int  # row
    source: str
    destination: str
    rung: str
    reason: str
    moved: bool
    why_not: str = ""
    stall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LoadSeries:
    """At each of `at_s`: requests that wait at the scheduler or on their way; of each instance its
    running and waiting sequences and the used share of its KV memory. Shape (times, instances)."""

    at_s: NDArray[np.float64]
    in_flight: NDArray[np.int64]
    instances: tuple[str, ...]
    running: NDArray[np.float32]
    waiting: NDArray[np.float32]
    kv_usage: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class InstanceUse:
    """`seconds`: how long it was there. `dollars`: what that cost."""

    name: str
    pool: str
    profile: str
    seconds: float
    dollars: float


@dataclass(frozen=True, slots=True)
class Targets:
    """Of a class in a pool; None: no target."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


@dataclass(frozen=True)
class Results:
    """`columns` has one row per request, in the order of arrival; those of names (`NAMED`) are
    codes into `names`. `duration_s`: from the start to the last end."""

    scenario: str
    seed: int
    policy: str
    warmup_s: float
    duration_s: float
    columns: Mapping[str, Column]
    names: Mapping[str, tuple[str, ...]]
    targets: Mapping[tuple[str, str], Targets]  # by pool and class
    moves: tuple[MoveRecord, ...]
    load: LoadSeries
    instances: tuple[InstanceUse, ...]
    counters: Mapping[str, int]
    notes: tuple[str, ...] = ()

    def text(self, name: str) -> NDArray[np.object_]:
        """A column of names, as texts."""
        return np.array(self.names[name], dtype=object)[self.columns[name]]

    def code(self, name: str, text: str) -> int:
        """The code of a text in a column; -1 where none has it."""
        texts = self.names[name]
        return texts.index(text) if text in texts else -1

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Of each request: whether it ended well."""
        code = self.code("outcome", FINISHED)
        return np.asarray(self.columns["outcome"] == code)

    @property
    def dollars(self) -> float:
        return sum(use.dollars for use in self.instances)


@dataclass(slots=True)
class Counters:
    """Counts while a run goes on."""

    values: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, count: int = 1) -> None:
        self.values[name] = self.values.get(name, 0) + count
