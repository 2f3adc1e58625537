"""When something is due without an event."""

from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Literal, NamedTuple

Kind = Literal["timeout", "holds", "instance", "move", "plan", "room", "alpha", "hand-over"]


class Timer(NamedTuple):
    at: float
    number: int  # equal instants: first come, first served
    kind: Kind
    key: str


@dataclass(slots=True)
class Timers:
    """Timers are not cancelled: who gets one looks whether it still applies."""

    _heap: list[Timer] = field(default_factory=list)
    _count: int = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, at: float, kind: Kind, key: str) -> None:
        self._count += 1
        heappush(self._heap, Timer(at, self._count, kind, key))

    def due(self, now: float) -> list[Timer]:
        found = []
        while self._heap and self._heap[0].at <= now:
            found.append(heappop(self._heap))
        return found

    def next(self) -> float | None:
        return self._heap[0].at if self._heap else None
