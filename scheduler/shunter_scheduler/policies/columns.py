"""What a dispatch policy looks at: a pool's instances as columns, and what a request asks."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Standings = NDArray[np.object_]  # of `Standing` or None


class Standing(Struct, frozen=True, gc=False):
    """Who has a slot, and why it may not be picked (empty: it may)."""

    name: str
    profile: str
    slot: int
    blocked_because: str


class InstanceRow(Struct, frozen=True, gc=False):
    """One instance at one moment.

    Seconds, tokens, and seconds per token; `price_s_per_s` is the price of one second of the
    instance, in the seconds that it is worth.
    """

    name: str
    profile: str
    slot: int
    blocked_because: str  # empty: may be picked
    requests: float
    queued_until: float  # instant when the prefills ahead are done, if any are
    busy: float  # 1.0 while prefills are ahead, else 0.0
    kv_free_tokens: float
    kv_soft_free_tokens: float  # until the admission to KV memory starts to take time
    kv_wait_s_per_token: float
    prefill_base_s: float
    prefill_s_per_token: float
    tpot_s: float  # of one more sequence there, its own context not counted
    step_s_per_sequence: float
    step_s_per_context_token: float
    price_s_per_s: float

    def queue_s(self, now: float) -> float:
        """Wait for the prefills ahead. Once overdue, as long again as they are late: an engine that
        has stalled gets less attractive with every second."""
        return abs(self.queued_until - now) * self.busy


@dataclass(frozen=True, slots=True)
class Weights:
    """How much a second of each term counts against a second of TTFT."""

    decode: float = 1.0
    slowdown: float = 1.0
    slo: float = 4.0


class Ask(Struct, eq=False, gc=False):
    """One request to place, in the numbers that policies use."""

    now: float
    prefill_tokens: int  # prompt and, for a replay, the tokens generated so far
    output_tokens: float  # expected, still to come
    kv_tokens: float  # to be reserved
    ttft_budget_s: float  # until the class's target is missed; inf: no target
    tpot_target_s: float  # inf: no target
    turn: int  # slot after the last one picked
    weights: Weights

    @property
    def context_tokens(self) -> float:
        """Mean length of the sequence while it decodes."""
        return self.prefill_tokens + 0.5 * self.output_tokens


# Rows of the matrix behind `InstanceColumns`: what follows from a slot's numbers, these numbers in
# the order of `InstanceRow`, and what the present request finds there.
_LINEAR, _NUMBERS, _CACHED, _SCORE = slice(0, 4), slice(4, 16), 16, 17
_SEEN = slice(4, 18)
_PUT = struct.Struct("=16d")


class InstanceColumns:
    """Struct of arrays over the slots of one pool; a slot stays an instance's until it goes.

    `linear` holds, per slot, the part of the predicted cost that is linear in the request: the
    multipliers are 1, prefill tokens, output tokens, output tokens x context tokens.

    A pick of a small pool costs as many NumPy calls as it makes, not what they work on. So what
    seldom matters is told by one number over all slots: `_least_free` and `_least_soft_free` are at
    most the fewest KV tokens of a slot that is open, and are made exact only where they say that
    memory may be short.
    """

    def __init__(self, weights: Weights, capacity: int = 16) -> None:
        self._weights = weights
        self._packed = np.empty(16)  # one column on its way: packing is cheaper than a tuple
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        self.capacity = capacity
        self._data = data = np.zeros((18, capacity))
        self.linear = data[_LINEAR]
        self.linear_per_prefill_token = data[1]
        self.requests, self.queued_until, self.busy = data[4:7]
        self.kv_free_tokens, self.kv_soft_free_tokens, self.kv_wait_s_per_token = data[7:10]
        self.prefill = data[10:12]
        self.prefill_s_per_token, self.tpot_s = data[11:13]
        self.cached_tokens, self.score = data[_CACHED], data[_SCORE]
        self._seen = data[_SEEN]
        self.kv_free_tokens.fill(-1.0)
        self.kv_soft_free_tokens.fill(math.inf)
        self._least_free = self._least_soft_free = math.inf
        self.standings: Standings = np.full(capacity, None, dtype=np.object_)
        self._blocked = np.ones(capacity, dtype=np.bool_)
        self._open = 0
        self._queue_s = np.zeros(capacity)
        self._queue_at = 0.0
        self.slots = np.arange(capacity)
        self.multipliers = np.ones(4)
        self.prefill_multipliers = self.multipliers[:2]
        self._excluded = np.empty(capacity, dtype=np.bool_)
        self.excluded = self._blocked
        self.scratch = (np.empty(capacity), np.empty(capacity))

    def grow(self) -> None:
        """Doubles the number of slots; numbers of slots in use stay."""
        rows = [self.row(slot) for slot in range(self.capacity) if self.standings[slot]]
        self._allocate(2 * self.capacity)
        for row in rows:
            self.put(row)

    def row(self, slot: int) -> InstanceRow:
        """What was put there last."""
        return row_of(self.standings[slot], self._data[_NUMBERS, slot].tolist())

    def seen(self, slots: NDArray[np.intp]) -> tuple[Standings, Floats]:
        """What a pick saw of some slots, to be kept: who is there, and, one column a slot, the
        numbers of its row, its prefix hit (tokens) and its score."""
        return self.standings[slots], self._seen.take(slots, 1)

    def put(self, row: InstanceRow) -> None:
        slot, n, w = row.slot, row.requests, self._weights
        free, soft_free = row.kv_free_tokens, row.kv_soft_free_tokens
        standing = self.standings[slot]
        if standing is None or standing.blocked_because != row.blocked_because:
            self.standings[slot] = Standing(row.name, row.profile, slot, row.blocked_because)
            self._set_blocked(slot, bool(row.blocked_because))
        if row.blocked_because:
            free = -1.0
        elif free < self._least_free:
            self._least_free = free
        if soft_free < self._least_soft_free:
            self._least_soft_free = soft_free
        self._queue_s[slot] = abs(row.queued_until - self._queue_at) * row.busy
        price, per_context, tpot_s = row.price_s_per_s, row.step_s_per_context_token, row.tpot_s
        prefill_base_s, prefill_s_per_token = row.prefill_base_s, row.prefill_s_per_token
        slowed = n * w.slowdown
        prefill_weight = 1.0 + slowed + price
        decode_weight = w.decode + price / (n + 1)
        _PUT.pack_into(
            self._packed.data,
            0,
            prefill_base_s * prefill_weight,
            prefill_s_per_token * prefill_weight,
            tpot_s * decode_weight + slowed * row.step_s_per_sequence,
            per_context * (decode_weight + slowed),
            n,
            row.queued_until,
            row.busy,
            free,
            soft_free,
            row.kv_wait_s_per_token,
            prefill_base_s,
            prefill_s_per_token,
            tpot_s,
            row.step_s_per_sequence,
            per_context,
            price,
        )
        self._data[:16, slot] = self._packed

    def clear(self, slot: int) -> None:
        self._set_blocked(slot, True)
        self.standings[slot] = None
        self._queue_s[slot] = 0.0
        self._data[:, slot] = 0.0
        self.kv_free_tokens[slot] = -1.0
        self.kv_soft_free_tokens[slot] = math.inf

    def _set_blocked(self, slot: int, blocked: bool) -> None:
        self._open += int(self._blocked[slot]) - int(blocked)
        self._blocked[slot] = blocked

    def exclude(self, kv_tokens: float, slots: tuple[int, ...]) -> int:
        """Marks in `excluded` what is blocked, lacks KV head room, or is one of `slots`; how many
        are left."""
        if kv_tokens <= self._least_free and not slots:
            self.excluded = self._blocked
            return self._open
        excluded = self.excluded = self._excluded
        np.less(self.kv_free_tokens, kv_tokens, excluded)
        for slot in slots:
            excluded[slot] = True
        left = self.capacity - int(np.count_nonzero(excluded))
        if left == self._open:
            self._least_free = float(
                self.kv_free_tokens.min(where=~self._blocked, initial=math.inf)
            )
        return left

    def memory_is_short(self, kv_tokens: float) -> bool:
        """Admission to KV memory takes time somewhere."""
        if kv_tokens <= self._least_soft_free:
            return False
        soft_free = self.kv_soft_free_tokens
        self._least_soft_free = soft_free.item(soft_free.argmin())
        return kv_tokens > self._least_soft_free

    def queue_s(self, now: float) -> Floats:
        """Wait for the prefills ahead on each slot, as `InstanceRow.queue_s`. Kept up to date for
        one instant: picks of one batch share it."""
        if now != self._queue_at:
            self._queue_at = now
            np.subtract(self.queued_until, now, self._queue_s)
            np.abs(self._queue_s, self._queue_s)
            np.multiply(self._queue_s, self.busy, self._queue_s)
        return self._queue_s


def row_of(standing: Standing, numbers: Sequence[float]) -> InstanceRow:
    return InstanceRow(
        standing.name, standing.profile, standing.slot, standing.blocked_because, *numbers
    )


def why_excluded(row: InstanceRow, ask: Ask) -> str:
    """The reason in words; empty for an instance that could be picked."""
    if row.blocked_because:
        return row.blocked_because
    if row.kv_free_tokens < ask.kv_tokens:
        return (
            f"no KV head room: {max(0, int(row.kv_free_tokens))} tokens free, "
            f"{int(ask.kv_tokens)} needed"
        )
    return ""
