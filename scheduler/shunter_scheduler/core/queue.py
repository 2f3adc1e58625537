"""The bounded admission queue of one pool.

Order: class, then tenant, then slack. The class is the rank of its priority. Inside a class
`fairness` says whose turn it is, and inside a tenant the least slack goes first: slack is deadline
- now - predicted service time, and `now` is the same for all, so the sort key leaves it out.

Nobody starves. A class that has had a request waiting for `Ageing.step_s` per rank that another
class is above it may go before that one: the class whose oldest request has waited longest goes
first, by the request of the tenant in turn that has waited longest. At most the share
`Ageing.share` of service goes so: a class that floods would else pass all others as it ages.
"""

from bisect import insort
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from shunter_scheduler.core.fairness import Account, Limits, SortKey, Turns

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Ageing:
    step_s: float = 10.0  # of waiting let a class go before the next higher one
    share: float = 0.05  # of the service of those that waited goes so, at most


class Queueable(Protocol):
    request_id: str
    rank: int  # of the SLO class; higher goes first
    queued_at: float
    latest_start_at: float  # deadline - predicted service time
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
    return (item.latest_start_at, item.queued_at, item.request_id)


@dataclass(slots=True)
class AdmissionQueue(Generic[Item]):
    """`window` is that of `Turns`."""

    ageing: Ageing = Ageing()
    window: float = 0.0
    _items: dict[str, Item] = field(default_factory=dict)
    _classes: dict[int, Turns] = field(default_factory=dict)  # by rank
    _ranks: list[int] = field(default_factory=list)  # negated, of classes in which some wait
    # Service that classes which had aged took from higher ones, less their share of that since.
    _owed: float = 0.0

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
        turns.push(account, _sort_key(item))

    def remove(self, request_id: str) -> bool:
        """False where it does not wait here."""
        item = self._items.pop(request_id, None)
        if item is None:
            return False
        assert item.account is not None
        turns = item.account.turns
        turns.remove(item.account, _sort_key(item))
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

    def next(self, now: float, skip: Collection[str] = NOTHING) -> tuple[Item, bool] | None:
        """Who goes next, of those not in `skip` whose tenants may run more; and whether it goes
        before a higher class, because its own has waited long."""
        for index, negated in enumerate(self._ranks):
            found = self._classes[-negated].next(skip)
            if found is None:
                continue
            if self._owed <= 0.0 and index + 1 < len(self._ranks):
                aged = self._aged(index, now, skip)
                if aged is not None:
                    return self._items[aged], True
            return self._items[found], False
        return None

    def _aged(self, top: int, now: float, skip: Collection[str]) -> str | None:
        rank = -self._ranks[top]
        lower = [
            (self._classes[-negated].by_age[0], -negated) for negated in self._ranks[top + 1 :]
        ]
        for (queued_at, _), below in sorted(lower):
            if now - queued_at >= (rank - below) * self.ageing.step_s:
                found = self._classes[below].oldest(skip)
                if found is not None:
                    return found
        return None

    def went(self, item: Item, before_higher: bool) -> None:
        """Who was next, as `next` said, was placed."""
        if before_higher:
            self._owed = item.expected_charge
        elif self._owed > 0.0:
            self._owed -= self.ageing.share * item.expected_charge

    def __iter__(self) -> Iterator[Item]:
        """In order, if no class goes before a higher one; do not change the queue meanwhile."""
        items = self._items
        for negated in self._ranks:
            for request_id in self._classes[-negated].ids(lambda one: items[one].expected_charge):
                yield items[request_id]

    def last(self) -> Item | None:
        """Who is shed when the queue is full: of the lowest class, of the tenant that has the most
        waiting there for its weight, who has the most slack."""
        if not self._items:
            return None
        keys = self._classes[-self._ranks[-1]].most_over_share().by_slack
        last = self._items[keys[-1][2]]
        if not last.started:
            return last
        waiting = (self._items[key[2]] for key in reversed(keys))
        return next((item for item in waiting if not item.started), last)

    def who_goes_first(self, item: Item) -> str:
        """Why it is not the next one."""
        if -self._ranks[0] > item.rank:
            return "higher classes"
        assert item.account is not None
        turns = item.account.turns
        if item.account.by_slack[0] != _sort_key(item):
            return "requests of its tenant that have less slack"
        return "tenants whose turn it is" if len(turns.waiting) > 1 else "others"

    def position(self, item: Item) -> int:
        """How many go before it; see `Turns.ahead_of`."""
        assert item.account is not None
        higher = sum(len(self._classes[-n]) for n in self._ranks if -n > item.rank)
        return higher + item.account.turns.ahead_of(item.account, _sort_key(item))
