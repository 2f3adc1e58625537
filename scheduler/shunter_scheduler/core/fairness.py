"""Whose turn it is inside one class: virtual token counters, weighted.

A tenant's counter grows by the service it gets over its weight, and the tenant with the lowest
counter goes next (VTC: Sheng et al., Fairness in Serving Large Language Models, OSDI 2024, with its
prices of tokens). Who had nothing waiting is lifted to the lowest counter of those who wait: a turn
that was not used is not saved up. Tenants whose counters are within `window` of the lowest count as
equal, and among their first requests the least slack goes first. So the counters of any two tenants
that wait differ by at most the window and one request's charge; ADR 0009 says what follows.

Service counts from where somebody had to wait: what is placed at once takes no one's turn.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

SortKey = tuple[float, float, str]  # latest start, queued at, id
AgeKey = tuple[float, str]  # queued at, id
Key = TypeVar("Key", SortKey, AgeKey)

INPUT_PRICE, OUTPUT_PRICE = 1.0, 2.0  # of a token, as in the paper
MAX_ACCOUNTS = 4096
MAX_COMPARED = 16  # tenants whose first requests are compared by slack
OTHERS = ""  # who comes when `MAX_ACCOUNTS` tenants wait already shares this account


def service_charge(prompt_tokens: float, output_tokens: float) -> float:
    return INPUT_PRICE * prompt_tokens + OUTPUT_PRICE * output_tokens


class Limits(Protocol):
    """What is configured about a tenant."""

    @property
    def weight(self) -> float: ...
    @property
    def full(self) -> bool:
        """It runs as much as it may: none of its requests goes next."""


@dataclass(slots=True, eq=False)
class Account:
    """One tenant in one class of one pool, and what waits of it."""

    name: str
    turns: "Turns"
    limits: Limits | None = None
    counter: float = 0.0  # price of its tokens over its weight
    floor: float = 0.0  # the counter it was lifted to last
    by_slack: list[SortKey] = field(default_factory=list)
    by_age: list[AgeKey] = field(default_factory=list)

    @property
    def weight(self) -> float:
        return 1.0 if self.limits is None else self.limits.weight

    @property
    def full(self) -> bool:
        return self.limits is not None and self.limits.full

    def take_turn(self, amount: float) -> None:
        """One of its requests goes, and costs so much."""
        self.turns.last_counter = max(self.turns.last_counter, self.counter)
        self.charge(amount)

    def charge(self, amount: float) -> None:
        """Less than 0: given back, but not below where it came back to after it was idle: what was
        charged before that is forgotten."""
        self.turns.move(self, max(self.floor, self.counter + amount / self.weight))


@dataclass(slots=True, eq=False)
class Turns:
    """The accounts of one class. `waiting` are those with requests, lowest counter first."""

    window: float
    accounts: dict[str, Account] = field(default_factory=dict)
    waiting: list[tuple[float, str]] = field(default_factory=list)
    by_age: list[AgeKey] = field(default_factory=list)  # all that wait
    last_counter: float = 0.0  # of who went next last

    def __len__(self) -> int:
        return len(self.by_age)

    def account(self, name: str, limits: Limits | None) -> Account:
        found = self.accounts.get(name)
        if found is None:
            if len(self.accounts) >= MAX_ACCOUNTS:
                self._forget_idle()
            if len(self.accounts) >= MAX_ACCOUNTS:
                name, limits = OTHERS, None
            found = self.accounts.setdefault(name, Account(name, self))
        found.limits = limits
        return found

    def push(self, account: Account, key: SortKey) -> None:
        if not account.by_slack:
            lowest = self.waiting[0][0] if self.waiting else self.last_counter
            if account.counter < lowest:
                account.counter = account.floor = lowest
            insort(self.waiting, (account.counter, account.name))
        age = (key[1], key[2])
        insort(account.by_slack, key)
        insort(account.by_age, age)
        insort(self.by_age, age)

    def remove(self, account: Account, key: SortKey) -> None:
        age = (key[1], key[2])
        _take(account.by_slack, key)
        _take(account.by_age, age)
        _take(self.by_age, age)
        if not account.by_slack:
            _take(self.waiting, (account.counter, account.name))

    def move(self, account: Account, counter: float) -> None:
        if account.by_slack:
            _take(self.waiting, (account.counter, account.name))
            insort(self.waiting, (counter, account.name))
        account.counter = counter

    def next(self, skip: Collection[str]) -> str | None:
        """Id of the request that goes next, of those not in `skip`."""
        found = _least_slack(
            (
                (counter, key, account)
                for counter, account in self._in_turn()
                if (key := _first(account.by_slack, skip)) is not None
            ),
            self.window,
        )
        return None if found is None else found[1][2]

    def oldest(self, skip: Collection[str]) -> str | None:
        """The same, but the one that has waited longest of the tenant whose turn it is."""
        for _, account in self._in_turn():
            for _, request_id in account.by_age:
                if request_id not in skip:
                    return request_id
        return None

    def _in_turn(self) -> Iterator[tuple[float, Account]]:
        for counter, name in self.waiting:
            account = self.accounts[name]
            if not account.full:
                yield counter, account

    def ids(self, charge_of: Callable[[str], float]) -> Iterator[str]:
        """All that wait, in the order in which they go if each takes what it is expected to."""
        if len(self.waiting) == 1:
            yield from (key[2] for key in self.accounts[self.waiting[0][1]].by_slack)
            return
        waiting = list(self.waiting)
        gone = dict.fromkeys((name for _, name in waiting), 0)
        while waiting:
            found = _least_slack(
                (
                    (counter, account.by_slack[gone[name]], account)
                    for counter, name in waiting
                    for account in (self.accounts[name],)
                ),
                self.window,
            )
            assert found is not None
            counter, key, account = found
            name = account.name
            _take(waiting, (counter, name))
            gone[name] += 1
            if gone[name] < len(account.by_slack):
                insort(waiting, (counter + charge_of(key[2]) / account.weight, name))
            yield key[2]

    def ahead_of(self, account: Account, key: SortKey) -> int:
        """How many go before it: exact for one tenant; for several as if all counters were equal
        and so were all requests."""
        own = bisect_left(account.by_slack, key)
        share = (own + 1) / account.weight
        return own + sum(
            min(len(other.by_slack), int(share * other.weight))
            for _, name in self.waiting
            if (other := self.accounts[name]) is not account
        )

    def most_over_share(self) -> Account:
        """Of those who wait: the most requests for its weight."""
        waiting = (self.accounts[name] for _, name in self.waiting)
        return max(waiting, key=lambda one: (len(one.by_slack) / one.weight, one.name))

    def _forget_idle(self) -> None:
        """At most one request's charge is forgotten with each: whoever comes back is lifted."""
        if len(self.waiting) < len(self.accounts):
            self.accounts = {n: one for n, one in self.accounts.items() if one.by_slack}


Head = tuple[float, SortKey, Account]  # counter, first request, whose


def _least_slack(heads: Iterable[Head], window: float) -> Head | None:
    """Of the first requests of tenants, lowest counter first."""
    best: Head | None = None
    end = 0.0
    for compared, head in enumerate(heads):
        if best is None:
            best, end = head, head[0] + window
        elif head[0] > end or compared >= MAX_COMPARED:
            break
        elif head[1] < best[1]:
            best = head
    return best


def _first(keys: list[SortKey], skip: Collection[str]) -> SortKey | None:
    for key in keys:
        if key[2] not in skip:
            return key
    return None


def _take(keys: list[Key], key: Key) -> None:
    del keys[bisect_left(keys, key)]
