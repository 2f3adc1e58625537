"""Whose turn it is inside one class: virtual token counters, weighted.

A tenant's counter grows by the service it gets over its weight, and the tenant with the lowest
counter goes next (VTC: Sheng et al., Fairness in Serving Large Language Models, OSDI 2024, with its
prices of tokens). Who had nothing waiting is lifted to the lowest counter of those who wait: a turn
that was not used is not saved up. Tenants whose counters are within `window` of the lowest count as
equal, and among their first requests the least slack goes first, those that are late last
(`triage`). So the counters of any two tenants that wait differ by at most the window and one
request's charge; ADR 0009 says what follows.

Service counts from where somebody had to wait: what is placed at once takes no one's turn.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from shunter_scheduler.core.account import (
    PLAN_S,
    Account,
    AgeKey,
    Limits,
    Rank,
    is_at,
    take,
)
from shunter_scheduler.core.triage import Drain, SortKey

INPUT_PRICE, OUTPUT_PRICE = 1.0, 2.0  # of a token, as in the paper
MAX_ACCOUNTS = 4096
MAX_COMPARED = 16  # tenants whose first requests are compared by slack
OTHERS = ""  # who comes when `MAX_ACCOUNTS` tenants wait already shares this account


def service_charge(prompt_tokens: float, output_tokens: float) -> float:
    return INPUT_PRICE * prompt_tokens + OUTPUT_PRICE * output_tokens


@dataclass(slots=True, eq=False)
class Turns:
    """The accounts of one class. `waiting` are those with requests, lowest counter first."""

    window: float
    accounts: dict[str, Account] = field(default_factory=dict)
    waiting: list[tuple[float, str]] = field(default_factory=list)
    by_age: list[AgeKey] = field(default_factory=list)  # all that wait
    last_counter: float = 0.0  # of who went next last
    drain: Drain = field(default_factory=Drain)
    _weights: float = 0.0  # of all in `waiting`, when that was looked at last
    _weighed_at: float = -PLAN_S

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
        if not account.by_age:
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
        if not take(account.by_slack, key):
            take(account.late, key)
        take(account.by_age, age)
        take(self.by_age, age)
        if not account.by_age:
            take(self.waiting, (account.counter, account.name))
        if not self.by_age:
            self.drain.emptied()

    def move(self, account: Account, counter: float) -> None:
        if account.by_age:
            take(self.waiting, (account.counter, account.name))
            insort(self.waiting, (counter, account.name))
        account.counter = counter

    def next(self, now: float, skip: Collection[str]) -> str | None:
        """Id of the request that goes next, of those not in `skip`."""
        self.drain.looked(now)
        found = _least_slack(
            (
                (counter, rank, account)
                for counter, account in self._in_turn()
                if (rank := self._first(account, now, skip)) is not None
            ),
            self.window,
        )
        return None if found is None else found[1][1][2]

    def _first(self, account: Account, now: float, skip: Collection[str]) -> Rank | None:
        if now - account.planned_at >= PLAN_S:
            account.plan(now, self._speed(account, now))
        return account.first(skip)

    def _speed(self, account: Account, now: float) -> float | None:
        """Its share of that at which all drain."""
        speed = self.drain.speed
        if speed is None or len(self.waiting) == 1:
            return speed
        if now - self._weighed_at >= PLAN_S:
            self._weighed_at = now
            self._weights = sum(self.accounts[name].weight for _, name in self.waiting)
        return speed * account.weight / max(self._weights, account.weight)

    def oldest_late(self, now: float, late_s: float, skip: Collection[str]) -> str | None:
        """Of the tenant in turn the request that is latest, if it has waited for `late_s`."""
        account = next((account for _, account in self._in_turn()), None)
        if account is None or not account.late:
            return None
        _, queued_at, request_id, _ = account.late[0]
        if now - queued_at < late_s or request_id in skip:
            return None
        return request_id

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
        orders = {name: self.accounts[name].in_order() for _, name in self.waiting}
        if len(orders) == 1:
            yield from (key[2] for order in orders.values() for key in order)
            return
        waiting = list(self.waiting)
        gone = dict.fromkeys(orders, 0)
        while waiting:
            found = _least_slack(
                (
                    (counter, account.rank(orders[name][gone[name]]), account)
                    for counter, name in waiting
                    for account in (self.accounts[name],)
                ),
                self.window,
            )
            assert found is not None
            counter, (_, key), account = found
            name = account.name
            take(waiting, (counter, name))
            gone[name] += 1
            if gone[name] < len(orders[name]):
                insort(waiting, (counter + charge_of(key[2]) / account.weight, name))
            yield key[2]

    def ahead_of(self, account: Account, key: SortKey) -> int:
        """How many go before it: exact for one tenant; for several as if all counters were equal
        and so were all requests."""
        own = bisect_left(account.by_slack, key)
        if not is_at(account.by_slack, own, key):
            own = len(account.by_slack) + bisect_left(account.late, key)
        share = (own + 1) / account.weight
        return own + sum(
            min(len(other.by_age), int(share * other.weight))
            for _, name in self.waiting
            if (other := self.accounts[name]) is not account
        )

    def most_over_share(self) -> Account:
        """Of those who wait: the most requests for its weight."""
        waiting = (self.accounts[name] for _, name in self.waiting)
        return max(waiting, key=lambda one: (len(one.by_age) / one.weight, one.name))

    def _forget_idle(self) -> None:
        """At most one request's charge is forgotten with each: whoever comes back is lifted."""
        if len(self.waiting) < len(self.accounts):
            self.accounts = {n: one for n, one in self.accounts.items() if one.by_age}


Head = tuple[float, Rank, Account]  # counter, first request, whose


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
