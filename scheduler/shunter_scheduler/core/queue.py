"""The bounded admission queue of one pool.

Order: class, then tenant, then slack. The class is the rank of its priority. Inside a class
`fairness` says whose turn it is, and inside a tenant the least slack goes first: slack is deadline
- now - predicted service time, and `now` is the same for all, so the sort key leaves it out. Whose
client reads already goes before them, and who cannot keep its target any more behind (`triage`).

Nobody starves. A class that has had a request waiting for `Ageing.step_s` per rank that another
class is above it may go before that one: the class whose oldest request has waited longest goes
first, by the request of the tenant in turn that has waited longest. At most the share
`Ageing.share` of service goes so: a class that floods would else pass all others as it ages. In the
same way those of a class that are late go before others of it once they have waited for `late_s`.
"""

from bisect import insort
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Generic, Protocol, TypeVar

from shunter_scheduler.core.account import Account, Limits
from shunter_scheduler.core.fairness import Turns
from shunter_scheduler.core.triage import SortKey

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Ageing:
    step_s: float = 10.0  # of waiting let a class go before the next higher one
    share: float = 0.05  # of the service of those that waited goes so, at most
    kept: float = 8.0  # requests' worth of what a class got by its own turns counts as its share
    late_s: float = 2.0  # of waiting let one that is late go before others of its class
    late_share: float = 0.1  # at most, of its class's service, though it costs others their targets


class Queueable(Protocol):
    request_id: str
    rank: int  # of the SLO class; higher goes first
    queued_at: float
    latest_start_at: float  # deadline - predicted service time
    target_work_s: float  # predicted seconds of its prefill; 0: no target that it can miss
    account: Account | None  # set by the queue

    @property
    def tenant(self) -> str: ...
    @property
    def limits(self) -> Limits | None: ...
    @property
    def expected_charge(self) -> float:
        """What it costs its tenant, as far as that is known."""

    @property
    def started(self) -> bool:
        """The client has part of the answer: shed last."""


Item = TypeVar("Item", bound=Queueable)


def order_key(item: Queueable) -> tuple[int, float, float, str]:
    """Sorts the first to go first, of one tenant's requests. A strict total order: ids differ."""
    return -item.rank, item.latest_start_at, item.queued_at, item.request_id


def _sort_key(item: Queueable) -> SortKey:
    if item.started:
        return (-inf, item.queued_at, item.request_id, 0.0)
    return (item.latest_start_at, item.queued_at, item.request_id, item.target_work_s)


@dataclass(slots=True)
class AdmissionQueue(Generic[Item]):
    """`window` is that of `Turns`."""

    ageing: Ageing = Ageing()
    window: float = 0.0
    _items: dict[str, Item] = field(default_factory=dict)
    # As each was pushed: an item may be found to have started, elsewhere, while it waits.
    _keys: dict[str, SortKey] = field(default_factory=dict)
    _classes: dict[int, Turns] = field(default_factory=dict)  # by rank
    _ranks: list[int] = field(default_factory=list)  # negated, of classes in which some wait
    # Service that classes which had aged took from higher ones, less their share of that since.
    _owed: float = 0.0
    # What each class got, however, less its share of what higher ones got since.
    _served: dict[int, float] = field(default_factory=dict)
    # As `_owed` of the late ones of each class, and who is next because of that.
    _late_owed: dict[int, float] = field(default_factory=dict)
    _late_next: str = ""

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._items

    def push(self, item: Item) -> None:
        rank = item.rank
        turns = self._classes.get(rank)
        if turns is None:
            turns = self._classes[rank] = Turns(self.window)
        if not turns:
            insort(self._ranks, -rank)
        item.account = account = turns.account(item.tenant, item.limits)
        self._items[item.request_id] = item
        self._keys[item.request_id] = key = _sort_key(item)
        turns.push(account, key)

    def remove(self, request_id: str) -> bool:
        """False where it does not wait here."""
        item = self._items.pop(request_id, None)
        if item is None:
            return False
        assert item.account is not None
        turns = item.account.turns
        turns.remove(item.account, self._keys.pop(request_id))
        if not turns:
            self._ranks.remove(-item.rank)
        return True

    def limit(self, tenants: Mapping[str, Limits]) -> None:
        """The limits of tenants have changed."""
        for turns in self._classes.values():
            for account in turns.accounts.values():
                account.limits = tenants.get(account.name)

    def renumber(self, ranks: Mapping[int, int]) -> None:
        """By old rank the new one, in the same order; the ranks of what waits are set already."""
        self._classes = {ranks[old]: turns for old, turns in self._classes.items() if old in ranks}
        self._ranks = [-ranks[-negated] for negated in self._ranks]
        self._late_owed = {ranks[old]: o for old, o in self._late_owed.items() if old in ranks}
        self._served = {ranks[old]: s for old, s in self._served.items() if old in ranks}

    def next(self, now: float, skip: Collection[str] = NOTHING) -> tuple[Item, bool] | None:
        """Who goes next, of those not in `skip` whose tenants may run more; and whether it goes
        before a higher class, because its own has waited long."""
        for index, negated in enumerate(self._ranks):
            turns = self._classes[-negated]
            found = turns.next(now, skip)
            if found is None:
                continue
            if self._owed <= 0.0 and index + 1 < len(self._ranks):
                aged = self._aged(index, now, skip)
                if aged is not None:
                    return self._items[aged], True
            self._late_next = ""
            if self._late_owed.get(-negated, 0.0) <= 0.0:
                late = turns.oldest_late(now, self.ageing.late_s, skip)
                if late is not None:
                    self._late_next = found = late
            return self._items[found], False
        return None

    def _aged(self, top: int, now: float, skip: Collection[str]) -> str | None:
        rank = -self._ranks[top]
        lower = [
            (self._classes[-negated].by_age[0], -negated) for negated in self._ranks[top + 1 :]
        ]
        for (queued_at, _), below in sorted(lower):
            if self._served.get(below, 0.0) > 0.0:
                continue
            if now - queued_at >= (rank - below) * self.ageing.step_s:
                found = self._classes[below].oldest(skip)
                if found is not None:
                    return found
        return None

    def by_age(self, item: Item, before_higher: bool) -> bool:
        """Whether the one that `next` found goes because it has waited, whatever others lose."""
        return before_higher or item.request_id == self._late_next

    def went(self, item: Item, before_higher: bool, now: float) -> None:
        """Who was next, as `next` said, was placed."""
        rank, charge = item.rank, item.expected_charge
        assert item.account is not None
        item.account.turns.drain.went(now, item.target_work_s)
        self._count_service(rank, charge)
        if before_higher:
            self._owed = charge
            return
        if self._owed > 0.0:
            self._owed -= self.ageing.share * charge
        if item.request_id == self._late_next:
            self._late_owed[rank] = charge
        elif rank in self._late_owed:
            self._late_owed[rank] -= self.ageing.late_share * charge
            if self._late_owed[rank] <= 0.0:
                del self._late_owed[rank]

    def _count_service(self, rank: int, charge: float) -> None:
        served, share = self._served, self.ageing.share * charge
        for below in [below for below in served if below < rank]:
            served[below] -= share
            if served[below] <= 0.0:
                del served[below]
        served[rank] = min(served.get(rank, 0.0) + charge, self.ageing.kept * charge)

    def __iter__(self) -> Iterator[Item]:
        """In order, if no class goes before a higher one; do not change the queue meanwhile."""
        items = self._items
        for negated in self._ranks:
            for request_id in self._classes[-negated].ids(lambda one: items[one].expected_charge):
                yield items[request_id]

    def last(self, by_age: bool = False) -> Item | None:
        """Who is shed when the queue is full: of the lowest class, of the tenant that has the most
        waiting there for its weight, who is late already, else who has the most slack; `by_age`:
        who came last."""
        if not self._items:
            return None
        account = self._classes[-self._ranks[-1]].most_over_share()
        by_slack = reversed(account.late or account.by_slack)
        ids = (key[1] for key in reversed(account.by_age)) if by_age else (k[2] for k in by_slack)
        waiting = (self._items[request_id] for request_id in ids)
        last = next(waiting)
        if not last.started:
            return last
        return next((item for item in waiting if not item.started), last)

    def who_goes_first(self, item: Item) -> str:
        """Why it is not the next one."""
        if -self._ranks[0] > item.rank:
            return "higher classes"
        assert item.account is not None
        turns, first = item.account.turns, item.account.first(NOTHING)
        if first is not None and first[1][2] != item.request_id:
            late = item.account.rank(self._keys[item.request_id])[0] > first[0]
            return f"requests of its tenant that {'are in time' if late else 'have less slack'}"
        return "tenants whose turn it is" if len(turns.waiting) > 1 else "others"

    def position(self, item: Item) -> int:
        """How many go before it; see `Turns.ahead_of`."""
        assert item.account is not None
        higher = sum(len(self._classes[-n]) for n in self._ranks if -n > item.rank)
        return higher + item.account.turns.ahead_of(item.account, self._keys[item.request_id])
