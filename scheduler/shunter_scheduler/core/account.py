"""What waits of one tenant in one class, and in which order it goes."""

from bisect import bisect_left, insort
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

from shunter_scheduler.core.triage import MAX_PLANNED, SortKey, put_off

if TYPE_CHECKING:
    from shunter_scheduler.core.fairness import Turns

AgeKey = tuple[float, str]  # queued at, id
Key = TypeVar("Key", SortKey, AgeKey)
PLAN_S = 0.05  # between two looks at who is late, and who has to be put off


class Limits(Protocol):
    """What is configured about a tenant."""

    @property
    def weight(self) -> float: ...
    @property
    def full(self) -> bool:
        """It runs as much as it may: none of its requests goes next."""


Rank = tuple[int, SortKey]
"""Of one of a tenant's requests: 0 where it is in time, 1 put off, 2 late; then in order."""


@dataclass(slots=True, eq=False)
class Account:
    """One tenant in one class of one pool, and what waits of it: `by_slack`, or `late`."""

    name: str
    turns: "Turns"
    limits: Limits | None = None
    counter: float = 0.0  # price of its tokens over its weight
    floor: float = 0.0  # the counter it was lifted to last
    by_slack: list[SortKey] = field(default_factory=list)
    late: list[SortKey] = field(default_factory=list)
    by_age: list[AgeKey] = field(default_factory=list)
    off: frozenset[str] = frozenset()  # those of `by_slack` that are put off
    planned_at: float = 0.0

    @property
    def weight(self) -> float:
        return 1.0 if self.limits is None else self.limits.weight

    @property
    def full(self) -> bool:
        return self.limits is not None and self.limits.full

    def first(self, skip: Collection[str]) -> Rank | None:
        """Of those not in `skip`."""
        second: SortKey | None = None
        for key in self.by_slack:
            if key[2] in skip:
                continue
            if key[2] not in self.off:
                return 0, key
            second = second or key
        if second is not None:
            return 1, second
        late = next((key for key in self.late if key[2] not in skip), None)
        return None if late is None else (2, late)

    def in_order(self) -> list[SortKey]:
        """All that wait."""
        if not self.off:
            return self.by_slack + self.late
        return [
            *(key for key in self.by_slack if key[2] not in self.off),
            *(key for key in self.by_slack if key[2] in self.off),
            *self.late,
        ]

    def rank(self, key: SortKey) -> Rank:
        if key[2] in self.off:
            return 1, key
        return (0 if is_at(self.by_slack, bisect_left(self.by_slack, key), key) else 2), key

    def plan(self, now: float, speed: float | None) -> None:
        """Who is late, and who has to be put off at a speed of the tenant's own."""
        start_at = now + self.turns.drain.head_s
        for key in _due(self.by_slack, start_at):
            take(self.by_slack, key)
            insort(self.late, key)
        self.planned_at, self.off = now, frozenset()
        if speed and len(self.by_slack) > 1:
            self.off = put_off(islice(self.by_slack, MAX_PLANNED), start_at, speed)

    def take_turn(self, amount: float) -> None:
        """One of its requests goes, and costs so much."""
        self.turns.last_counter = max(self.turns.last_counter, self.counter)
        self.charge(amount)

    def charge(self, amount: float) -> None:
        """Less than 0: given back, but not below where it came back to after it was idle: what was
        charged before that is forgotten."""
        self.turns.move(self, max(self.floor, self.counter + amount / self.weight))


def _due(keys: list[SortKey], start_at: float) -> list[SortKey]:
    """Those of the first `MAX_PLANNED` that have a target and cannot keep it."""
    end = bisect_left(keys, (start_at,), hi=min(len(keys), MAX_PLANNED))
    return [key for key in keys[:end] if key[3]]


def is_at(keys: list[Key], place: int, key: Key) -> bool:
    return place < len(keys) and keys[place] == key


def take(keys: list[Key], key: Key) -> bool:
    place = bisect_left(keys, key)
    if not is_at(keys, place, key):
        return False
    del keys[place]
    return True
