"""What a dispatch policy looks at: a pool's instances as columns, and what a request asks."""

from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_COLUMN = Struct("=12d")


class InstanceRow(NamedTuple):
    """One instance at one moment; immutable, so that an explanation may keep it.

    Seconds, tokens, and seconds per token; `price_s_per_s` is the price of one second of the
    instance, in the seconds that it is worth.
    """

    name: str
    profile: str
    slot: int
    blocked_because: str  # empty: may be picked
    requests: int
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


@dataclass(frozen=True, slots=True)
class Weights:
    """How much a second of each term counts against a second of TTFT."""

    decode: float = 1.0
    slowdown: float = 1.0
    slo: float = 4.0


@dataclass(slots=True)
class Ask:
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


class InstanceColumns:
    """Struct of arrays over the slots of one pool; a slot stays an instance's until it goes.

    `linear` holds, per slot, the part of the predicted cost that is linear in the request: the
    multipliers are 1, prefill tokens, output tokens, output tokens x context tokens.
    """

    def __init__(self, weights: Weights, capacity: int = 16) -> None:
        self._weights = weights
        self.rows: list[InstanceRow | None] = []
        self._packed = np.empty(12)  # one column on its way: packing is cheaper than a tuple
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        self.capacity = capacity
        self.rows += [None] * (capacity - len(self.rows))
        data = self._data = np.zeros((12, capacity))
        (self.queued_until, self.busy, self.kv_free_tokens, self.kv_soft_free_tokens) = data[:4]
        self.kv_wait_s_per_token = data[4]
        self.prefill = data[5:7]
        self.prefill_s_per_token = data[6]
        self.tpot_s = data[7]
        self.linear = data[8:12]
        self.linear_per_prefill_token = data[9]
        self.kv_free_tokens.fill(-1.0)
        self.kv_soft_free_tokens.fill(np.inf)
        self.requests = np.zeros(capacity)
        self.slots = np.arange(capacity)
        self.cached_tokens = np.zeros(capacity)
        self.multipliers = np.ones(4)
        self.prefill_multipliers = self.multipliers[:2]
        self.score = np.empty(capacity)
        self.excluded = np.empty(capacity, dtype=np.bool_)
        self.scratch = (np.empty(capacity), np.empty(capacity))

    def grow(self) -> None:
        """Doubles the number of slots; numbers of slots in use stay."""
        rows = list(self.rows)
        self._allocate(2 * self.capacity)
        for row in rows:
            if row is not None:
                self.put(row)

    def put(self, row: InstanceRow) -> None:
        slot, n, w = row.slot, row.requests, self._weights
        self.rows[slot] = row
        self.requests[slot] = n
        price, per_context = row.price_s_per_s, row.step_s_per_context_token
        prefill_weight = 1.0 + n * w.slowdown + price
        decode_weight = w.decode + price / (n + 1)
        _COLUMN.pack_into(
            self._packed.data,
            0,
            row.queued_until,
            row.busy,
            -1.0 if row.blocked_because else row.kv_free_tokens,
            row.kv_soft_free_tokens,
            row.kv_wait_s_per_token,
            row.prefill_base_s,
            row.prefill_s_per_token,
            row.tpot_s,
            row.prefill_base_s * prefill_weight,
            row.prefill_s_per_token * prefill_weight,
            row.tpot_s * decode_weight + n * w.slowdown * row.step_s_per_sequence,
            per_context * (decode_weight + n * w.slowdown),
        )
        self._data[:, slot] = self._packed

    def clear(self, slot: int) -> None:
        self.rows[slot] = None
        self._data[:, slot] = 0.0
        self.kv_free_tokens[slot] = -1.0
        self.kv_soft_free_tokens[slot] = np.inf
        self.requests[slot] = 0.0

    def exclude(self, kv_tokens: float, slots: tuple[int, ...]) -> None:
        """Marks in `excluded` what is blocked, lacks KV head room, or is one of `slots`."""
        np.less(self.kv_free_tokens, kv_tokens, self.excluded)
        for slot in slots:
            self.excluded[slot] = True


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
