"""Leases and fences: how long a move is remembered, and what epochs it has heard of."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, TypeVar

from shunter_engine.moves.ports import Clock, Timer

DEFAULT_LEASE_S = 10.0
LONGEST_LEASE_S = 60.0
SHORTEST_LEASE_S = 0.05
MAX_REMEMBERED = 4096


def granted_s(asked_ms: int) -> float:
    """0 asks for the default."""
    asked_s = asked_ms / 1000 or DEFAULT_LEASE_S
    return min(max(asked_s, SHORTEST_LEASE_S), LONGEST_LEASE_S)


class Lease:
    """Calls `on_end` once it was not renewed for as long as it lasts."""

    def __init__(self, clock: Clock, lasts_s: float, on_end: Callable[[], None]) -> None:
        self._clock = clock
        self._on_end = on_end
        self.lasts_s = lasts_s
        self._ends_at = clock.time() + lasts_s
        self._timer: Timer | None = clock.call_later(lasts_s, self._look)

    @property
    def ms(self) -> int:
        return round(self.lasts_s * 1000)

    def renew(self) -> None:
        """Cheap: a chunk renews it. Without effect after the end."""
        self._ends_at = self._clock.time() + self.lasts_s

    def last(self, lasts_s: float) -> None:
        """Renews it, and lets it last so long from now on."""
        self.lasts_s = lasts_s
        self.renew()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._clock.call_later(lasts_s, self._look)

    def end(self) -> None:
        """Without `on_end`. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self._timer is None:
            return
        left_s = self._ends_at - self._clock.time()
        if left_s > 0:
            self._timer = self._clock.call_later(left_s, self._look)
        else:
            self._timer = None
            self._on_end()


class Ends(Protocol):
    @property
    def over(self) -> bool: ...


E = TypeVar("E", bound=Ends)


def remember(moves: OrderedDict[str, E], move_id: str, move: E) -> None:
    """Forgets the oldest of those that are over, where there are too many."""
    moves[move_id] = move
    for old in list(moves)[: max(0, len(moves) - MAX_REMEMBERED)]:
        if moves[old].over:
            del moves[old]


class Fences:
    """The highest epoch heard of for each move or call; the longest unheard are forgotten."""

    def __init__(self, limit: int = MAX_REMEMBERED) -> None:
        self._epochs: OrderedDict[str, int] = OrderedDict()
        self._limit = limit

    def stale(self, name: str, epoch: int) -> bool:
        return epoch < self._epochs.get(name, 0)

    def raise_to(self, name: str, epoch: int) -> None:
        self._epochs[name] = max(epoch, self._epochs.pop(name, 0))
        while len(self._epochs) > self._limit:
            self._epochs.popitem(last=False)

    def epoch(self, name: str) -> int:
        return self._epochs.get(name, 0)
