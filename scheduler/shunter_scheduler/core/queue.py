"""The bounded admission queue of one pool.

Order: level, then slack, then arrival, then id. The level is the rank of the SLO class's priority,
lifted by one for each `ageing_step_s` waited: strict priority, but nobody starves. Slack is
deadline - now - predicted service time; `now` is the same for all, so the sort key leaves it out.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar

SortKey = tuple[float, float, str]
OrderKey = tuple[int, float, float, str]


class Queueable(Protocol):
    request_id: str
    rank: int  # of the SLO class; higher goes first
    queued_at: float
    latest_start_at: float  # deadline - predicted service time


Item = TypeVar("Item", bound=Queueable)


def order_key(item: Queueable, now: float, ageing_step_s: float) -> OrderKey:
    """Sorts the first to go first. A strict total order: ids differ."""
    at = level(item, now, ageing_step_s)
    return (-at, item.latest_start_at, item.queued_at, item.request_id)


def level(item: Queueable, now: float, ageing_step_s: float) -> int:
    waited_s = now - item.queued_at
    return item.rank + int(waited_s / ageing_step_s) if waited_s > 0 else item.rank


def _sort_key(item: Queueable) -> SortKey:
    return (item.latest_start_at, item.queued_at, item.request_id)


@dataclass(slots=True)
class AdmissionQueue(Generic[Item]):
    """One sorted list per level; `advance` lifts those who have waited another step."""

    ageing_step_s: float
    _items: dict[str, Item] = field(default_factory=dict)
    _level_of: dict[str, int] = field(default_factory=dict)
    _levels: dict[int, list[SortKey]] = field(default_factory=dict)
    _lifts: list[tuple[float, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._items

    def push(self, item: Item, now: float) -> None:
        request_id = item.request_id
        self._items[request_id] = item
        self._place(item, level(item, now, self.ageing_step_s))

    def remove(self, request_id: str) -> bool:
        """False where it does not wait here."""
        item = self._items.pop(request_id, None)
        if item is None:
            return False
        self._take_out(item)
        return True

    def advance(self, now: float) -> None:
        if len(self._lifts) > 64 + 4 * len(self._items):
            self._lifts = [lift for lift in self._lifts if lift[1] in self._items]
            heapify(self._lifts)
        while self._lifts and self._lifts[0][0] <= now:
            _, request_id = heappop(self._lifts)
            item = self._items.get(request_id)
            if item is None:
                continue
            at = self._level_of[request_id]
            due = max(at, level(item, now, self.ageing_step_s))
            if due == at and self._lift_at(item, at) <= now:
                due += 1  # at this very instant the level may still be rounded down
            if due != at:
                self._take_out(item)
                self._place(item, due)

    def first(self, count: int) -> list[Item]:
        found: list[Item] = []
        for item in self:
            if len(found) == count:
                break
            found.append(item)
        return found

    def __iter__(self) -> Iterator[Item]:
        """In order; do not change the queue meanwhile."""
        for at in sorted(self._levels, reverse=True):
            for key in self._levels[at]:
                yield self._items[key[2]]

    def last(self) -> Item | None:
        """Who is shed when the queue is full."""
        if not self._items:
            return None
        return self._items[self._levels[min(self._levels)][-1][2]]

    def position(self, item: Item) -> int:
        """How many go before it."""
        own = self._level_of[item.request_id]
        ahead = sum(len(keys) for at, keys in self._levels.items() if at > own)
        return ahead + bisect_left(self._levels[own], _sort_key(item))

    def _place(self, item: Item, at: int) -> None:
        request_id = item.request_id
        self._level_of[request_id] = at
        insort(self._levels.setdefault(at, []), _sort_key(item))
        heappush(self._lifts, (self._lift_at(item, at), request_id))

    def _lift_at(self, item: Item, at: int) -> float:
        """When it leaves that level."""
        return item.queued_at + (at - item.rank + 1) * self.ageing_step_s

    def _take_out(self, item: Item) -> None:
        at = self._level_of.pop(item.request_id)
        keys = self._levels[at]
        del keys[bisect_left(keys, _sort_key(item))]
        if not keys:
            del self._levels[at]
