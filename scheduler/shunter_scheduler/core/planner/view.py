"""What a trigger sees, and what it proposes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.moving import may_leave
from shunter_scheduler.core.planner.fleet import Bools, Fleet
from shunter_scheduler.core.planner.traffic import Traffic
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.state import CoreState

# Gateways report every half second (`progress_interval_s`) how far answers are.
PREEMPTED_AFTER_S = 0.75
# Sources that one trigger looks at in one cycle: this many, and one for so many instances more.
MIN_SOURCES, INSTANCES_PER_SOURCE = 8, 64
# Requests that one trigger weighs in one cycle, at least of one source, and all triggers together:
# a cycle has an end, and the most urgent come first.
LOOKED_AT, FEWEST, WEIGHED_AT_MOST = 96, 4, 128
# Of an instance with more requests only so many are looked at, spread over all.
SAMPLED = 48


@dataclass(slots=True)
class View:
    """One pool in one cycle. `fleet` follows the moves that are ordered."""

    state: CoreState
    pool: PoolRecord
    fleet: Fleet
    traffic: Traffic
    now: float
    horizon_s: float
    may_weigh: int = WEIGHED_AT_MOST
    _on: dict[int, list[Entry]] = field(default_factory=dict)

    def on(self, source: int) -> list[Entry]:
        """What runs there and may leave, by the rules that hold for every move of the planner."""
        found = self._on.get(source)
        if found is None:
            record, entries = self.fleet.records[source], self.state.entries
            ids = list(record.requests)
            ids = ids[:: 1 + len(ids) // SAMPLED]
            there = [entries[request_id] for request_id in ids]
            own = [entry for entry in there if entry.instance is record]
            found = self._on[source] = travellers(own, self.now)
        return [entry for entry in found if entry.state == "running" and not entry.suspended_for]

    def varied(self, source: int) -> list[Entry]:
        """Some that have begun to answer, of the lowest class there, short ones and long ones."""
        started = [entry for entry in self.on(source) if entry.started]
        started.sort(key=lambda e: (e.rank, e.context_tokens, e.request_id))
        count = max(FEWEST, LOOKED_AT // (MIN_SOURCES + len(self.fleet) // INSTANCES_PER_SOURCE))
        if len(started) <= count:
            return started
        return [started[int(at)] for at in np.linspace(0, len(started) - 1, count)]

    def most(self, score: np.ndarray) -> list[int]:
        """Sources with the highest positive score, the highest first."""
        allowed = np.where(self.fleet.sources, score, 0.0)
        if allowed.max(initial=0.0) <= 0.0:
            return []
        count = MIN_SOURCES + len(self.fleet) // INSTANCES_PER_SOURCE
        if count < len(allowed):
            best = np.argpartition(-allowed, count)[:count]
        else:
            best = np.arange(len(allowed))
        ordered = best[np.argsort(-allowed[best], kind="stable")]
        return [int(index) for index in ordered if allowed[index] > 0]


def awake(entries: list[Entry]) -> list[Entry]:
    """Without those that were preempted: of what began to answer, they alone are silent."""
    since = max([entry.progressed_at for entry in entries], default=0.0) - PREEMPTED_AFTER_S
    return [e for e in entries if e.progressed_at > since or not e.started]


def travellers(entries: list[Entry], now: float) -> list[Entry]:
    """Who may leave an instance where all of `entries` run, and has not moved or come back lately.
    Thousands are looked at in one cycle."""
    return [e for e in awake(entries) if now >= e.rest_until and may_leave(e, now)]


@dataclass(frozen=True, slots=True)
class Case:
    """One of `entries` should leave `source`: the one whose best move gains most is taken.

    `bonus` is what the trigger has to add to the gain; `destinations` bounds where to. `rescue`:
    the targets of those who go are looked at as if differences of speed lasted. `eases`: that there
    is more memory then where they leave is a gain.
    """

    source: int
    entries: list[Entry]
    destinations: Bools | None = None
    bonus: tuple[str, float] | None = None
    rescue: bool = False
    eases: bool = True


@dataclass(frozen=True, slots=True)
class Trigger:
    """`cases` is lazy: each case is proposed in view of the moves ordered before it."""

    reason: str
    cases: Callable[[View], Iterable[Case]]


def cheapest(entries: list[Entry], count: int) -> list[Entry]:
    """The lowest class first, then those with most to come for what they have to take along."""
    entries.sort(key=lambda e: (e.rank, _effort(e), e.request_id))
    return entries[:count]


def _effort(entry: Entry) -> float:
    left = entry.expected_tokens + entry.request.output_tokens - entry.output_tokens
    return entry.context_tokens / max(left, 1.0)
