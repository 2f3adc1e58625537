"""One instance: its load, its health, and the row of columns that follows from them."""

import math
from dataclasses import dataclass, field

from shunter_scheduler.core.ledger import NS, Load
from shunter_scheduler.core.prefill_rate import PrefillRate
from shunter_scheduler.core.probing import Probe
from shunter_scheduler.core.profile_model import ProfileModel
from shunter_scheduler.core.sent import Sent
from shunter_scheduler.core.settings import CoreSettings, HeadRoom
from shunter_scheduler.domain.cluster import Instance
from shunter_scheduler.domain.events import InstanceObserved
from shunter_scheduler.domain.status import InstanceState, InstanceStatus
from shunter_scheduler.policies.hold_back import LATE_SHARE
from shunter_scheduler.policies.misses import misses_per_s
from shunter_scheduler.policies.ranked import ALL_RANKS
from shunter_scheduler.policies.rows import InstanceRow
from shunter_scheduler.policies.view import Look


@dataclass(slots=True)
class Drain:
    """`again_at`: the next try that was asked for, after a move that found no destination."""

    deadline_at: float
    again_at: float = 0.0
    moved: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: bool = False  # what was left at the deadline

    def ended(self, reason: str) -> None:
        """Of a request there."""
        if self.cancelled and reason == "cancelled":
            self.failed += 1
        else:
            self.finished += 1


@dataclass(slots=True)
class InstanceRecord:
    """Mutable. `requests` are the ids with a reservation here, moves towards it included, and
    `tpot_targets` counts them by rank of their class and its target; `least_target_s` is the least
    of the latter."""

    value: Instance
    slot: int
    model: ProfileModel
    load: Load = field(default_factory=Load)
    requests: dict[str, None] = field(default_factory=dict)
    observed: InstanceObserved | None = None
    served: bool = False  # was healthy once
    foreign: tuple[int, int] = (0, 0)  # requests and KV tokens that are not in the ledger
    excess: tuple[int, int] = (0, 0)
    used_tokens: int = 0  # by the engine's own numbers
    prefills: PrefillRate = field(default_factory=PrefillRate)
    sent: Sent = field(default_factory=Sent)
    tpot_targets: dict[tuple[int, float], int] = field(default_factory=dict)
    least_target_s: float = math.inf
    queued_until: float = 0.0
    prefilled_ns: int = 0  # of all prefills that ended here, as predicted
    probe: Probe = field(default_factory=Probe)
    failures: int = 0
    ejections: int = 0
    ejected_until: float | None = None
    drain: Drain | None = None
    hands_over: bool = False  # who decodes here leaves at once: what it may suffer does not count
    emptying_until: float = 0.0  # the planner moves its requests away ahead of a scale-down

    @property
    def name(self) -> str:
        return self.value.name

    @property
    def kv_capacity_tokens(self) -> int:
        seen = self.observed
        if seen is not None and seen.kv_capacity_tokens:
            return seen.kv_capacity_tokens
        return self.model.cost.kv_capacity_tokens

    @property
    def decoding(self) -> tuple[int, int]:
        """Sequences that decode, and the KV tokens that are reserved for all there are."""
        load, (requests, tokens) = self.load, self.foreign
        return load.requests - load.prefilling + requests, load.kv_tokens + tokens

    @property
    def healthy(self) -> bool:
        return self.observed is not None and self.observed.healthy

    @property
    def kv_transport(self) -> str:
        """KV caches are copied between equal ones; empty: not at all, or not known yet."""
        seen = self.observed
        return self.value.kv_transport or (seen.kv_transport if seen is not None else "")

    @property
    def in_service(self) -> bool:
        """May get work, be it after a wait."""
        return self.healthy and self.ejected_until is None and self.drain is None

    def observe(self, seen: InstanceObserved) -> None:
        """What the engine has beyond the ledger counts only once it was there twice: the two
        do not change at the same moment."""
        recovered = seen.healthy and self.observed is not None and not self.observed.healthy
        if recovered:
            self.succeeded()
        self.observed = seen
        self.served = self.served or seen.healthy
        # What an idle engine reports as used is its prefix cache, which gives way.
        idle = not seen.running and not seen.waiting
        used_tokens = 0 if idle else int(seen.kv_cache_usage * self.kv_capacity_tokens)
        self.used_tokens = used_tokens
        excess = (
            max(0, seen.running + seen.waiting - self.load.requests),
            max(0, used_tokens - self.load.kv_tokens),
        )
        self.foreign = (min(excess[0], self.excess[0]), min(excess[1], self.excess[1]))
        self.excess = excess
        self.sent.looked(self.load.requests - seen.running - seen.waiting)

    def hosts(self, rank: int, tpot_s: float) -> None:
        """One more request with a reservation here, of a class of this rank and target."""
        key, targets = (rank, tpot_s), self.tpot_targets
        targets[key] = targets.get(key, 0) + 1
        if tpot_s < self.least_target_s:
            self.least_target_s = tpot_s

    def hosts_no_more(self, rank: int, tpot_s: float) -> None:
        key, targets = (rank, tpot_s), self.tpot_targets
        targets[key] -= 1
        if not targets[key]:
            del targets[key]
            self.least_target_s = min(key[1] for key in targets) if targets else math.inf

    def failed(self, now: float, settings: CoreSettings) -> bool:
        """Counts a failure; True where it takes the instance out."""
        limits = settings.ejection
        self.failures += 1
        late = self.ejected_until is not None and now < self.ejected_until
        if late or self.failures < limits.failures_in_a_row:
            return False
        backoff_s = min(limits.max_backoff_s, limits.first_backoff_s * 2**self.ejections)
        self.ejections += 1
        self.ejected_until = now + backoff_s
        return True

    def succeeded(self) -> bool:
        """An answer came; True where that puts an ejected instance back."""
        self.failures = 0
        if self.ejected_until is None:
            return False
        self.ejections = 0
        self.ejected_until = None
        return True

    def queue_starts(self, now: float, prefill_s: float) -> None:
        ahead = self.queued_until if self.load.prefilling else now
        self.queued_until = (ahead if ahead > now else now) + prefill_s

    def queue_moves(self, now: float) -> None:
        """A prefill ended: the others ahead are still to be done."""
        self.queued_until = now + self.load.prefill_ns / NS

    def places(self, room: HeadRoom) -> int:
        """For how many more requests its batch has room."""
        own, most = self.model.cost.max_num_seqs, room.max_requests
        return (own if own < most else most) - self.load.requests - self.foreign[0]

    def blocked_because(self, now: float, settings: CoreSettings, rank: int = 0) -> str:
        """For a request of this rank; empty: not at all."""
        room, load, seen = settings.head_room, self.load, self.observed
        if seen is None:
            return "starting: not seen yet"
        if not seen.healthy:
            return "unhealthy"
        if self.drain is not None:
            return "draining"
        if now < self.emptying_until:
            return "being emptied before a scale-down"
        if self.ejected_until is not None:
            if now < self.ejected_until:
                return f"ejected after {self.failures} failures in a row"
            if load.requests:
                return "being probed after failures"
        if self.places(room) <= 0:
            return f"no head room: {load.requests} requests"
        if self.full_rank(room) >= rank:
            return f"no head room: {load.prefill_ns / NS:.1f} s of prefills ahead"
        return ""

    def full_rank(self, room: HeadRoom) -> int:
        """The highest rank for which too many prefills are ahead; -1: for none."""
        load, limit_ns, full = self.load, room.max_queue_s * NS, -1
        count, ns = load.prefilling, load.prefill_ns
        if count <= 1 or ns <= limit_ns:
            return full
        for rank in sorted(load.by_rank):
            full = rank
            passing, passing_ns = load.by_rank[rank]
            count, ns = count - passing, ns - passing_ns
            if count <= 1 or ns <= limit_ns:
                return full
        return ALL_RANKS

    def row(self, now: float, settings: CoreSettings, top_rank: int = 0) -> InstanceRow:
        """`top_rank`: of the highest class that there is."""
        load, model, room, value = self.load, self.model, settings.head_room, self.value
        capacity, reserved = self.kv_capacity_tokens, load.requests
        foreign_requests, foreign_tokens = self.foreign
        requests = reserved + foreign_requests
        used = load.kv_tokens + foreign_tokens
        tpot_s = model.decode_step_s(requests + 1, used)
        if requests:  # with whom prefills share the steps
            tpot_s /= 1.0 - self.prefills.share
        missed_per_s, lowest_rank = 0.0, -1.0
        if tpot_s > LATE_SHARE * self.least_target_s and not self.hands_over:
            missed_per_s = misses_per_s(self.tpot_targets, tpot_s, model.rates.alone_s)
            missed_per_s *= reserved / max(1, load.decode_tokens)
            lowest_rank = min(self.tpot_targets)[0]
        kv_wait_s_per_token = 0.0
        if reserved and used:  # what is used now comes free over the mean time that is left
            kv_wait_s_per_token = tpot_s * load.decode_tokens / reserved / used
        blocked = self.blocked_because(now, settings, top_rank)
        ahead: tuple[tuple[int, float], ...] = ()
        if top_rank and load.by_rank:
            ahead = tuple([(rank, ns / NS) for rank, (_, ns) in load.by_rank.items()])
        return InstanceRow(
            value.name,
            value.profile,
            self.slot,
            blocked,
            model.rates,
            requests,
            self.queued_until,
            1.0 if load.prefilling else 0.0,
            capacity * (1 - room.kv_watermark) - used,
            capacity * room.kv_soft_limit - used,
            kv_wait_s_per_token,
            tpot_s,
            missed_per_s,
            tpot_s if requests else 0.0,
            lowest_rank,
            self.full_rank(room) if top_rank and not blocked else -1,
            ahead,
        )

    def look(self, settings: CoreSettings) -> Look:
        """For policies that go by the engine's own numbers, or by outstanding work."""
        load, seen, sent = self.load, self.observed, self.sent
        step_s = self.model.middling_step_s
        work_s = load.prefill_ns / NS + load.decode_tokens * step_s
        capacity, counts = self.kv_capacity_tokens, settings.count_sent
        return Look(
            self.value.name,
            seen.running if seen else 0,
            seen.waiting if seen else 0,
            capacity - self.used_tokens,
            seen.waiting_kv_tokens if seen else 0,
            sent.requests if counts else 0,
            sent.kv_tokens if counts else 0,
            capacity,
            load.high_priority,
            work_s,
            step_s,
        )

    def state(self, now: float) -> InstanceState:
        if self.observed is None:
            return "starting"
        if not self.observed.healthy or (self.ejected_until or 0.0) > now:
            return "failed"
        if self.drain is not None:
            return "draining" if self.load.requests else "drained"
        return "ready"

    def status(self, now: float) -> InstanceStatus:
        seen = self.observed or InstanceObserved(self.value.name, healthy=False)
        waiting = self.load.prefilling > 0
        return InstanceStatus(
            name=self.value.name,
            pool=self.value.pool,
            profile=self.value.profile,
            address=self.value.address,
            state=self.state(now),
            running=self.load.requests,
            ledger_tokens=self.load.kv_tokens,
            kv_capacity_tokens=self.kv_capacity_tokens,
            predicted_wait_s=max(0.0, self.queued_until - now) if waiting else 0.0,
            engine_running=seen.running,
            engine_waiting=seen.waiting,
            kv_cache_usage=seen.kv_cache_usage,
        )
