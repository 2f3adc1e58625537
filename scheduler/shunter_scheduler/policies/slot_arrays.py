"""The arrays in which a pool's instances are columns, and nothing of what the numbers mean."""

import math

import numpy as np
from numpy.typing import NDArray

from shunter_scheduler.policies.ranked import RankedPrefills
from shunter_scheduler.policies.rows import MAX_PARTS, Standing
from shunter_scheduler.policies.view import EngineView

# Rows of the matrix: what follows from a slot's numbers, these numbers in the order of
# `InstanceRow`, what the present request finds there, and the parts of its score.
LINEAR, PREFILL_WEIGHT, CACHED_WEIGHT, NUMBERS = slice(0, 6), 6, 7, slice(8, 17)
CACHED, SCORE, PASSED, PARTS = 17, 18, 19, slice(20, 20 + MAX_PARTS)
SEEN, SEEN_WITH_PARTS = slice(8, 20), slice(8, 20 + MAX_PARTS)


class SlotArrays:
    """Room for so many slots, all of them empty; `InstanceColumns` fills them and is asked."""

    __slots__ = (
        "_blocked",
        "_columns",
        "_data",
        "_excluded",
        "_least_free",
        "_least_soft_free",
        "_most_queue_s",
        "_near_target",
        "_open",
        "_own_queue_s",
        "_packed",
        "_packed_bytes",
        "_passed_s",
        "_passes",
        "_queue_at",
        "_queue_s",
        "_seen",
        "_slowest_prefill",
        "_standings",
        "alone_s",
        "busy",
        "cached_tokens",
        "cached_weight",
        "capacity",
        "excluded",
        "kv_free_tokens",
        "kv_soft_free_tokens",
        "kv_wait_s_per_token",
        "linear",
        "lowest_rank",
        "misses_per_s",
        "most_misses_per_s",
        "most_tpot_s",
        "multipliers",
        "parts",
        "prefill",
        "prefill_multipliers",
        "prefill_s_per_square",
        "prefill_s_per_token",
        "prefill_weight",
        "queued_until",
        "ranked",
        "requests",
        "score",
        "scratch",
        "slots",
        "step_s",
        "step_s_per_context_token",
        "step_s_per_sequence",
        "tpot_s",
        "view",
    )

    def __init__(self, capacity: int) -> None:
        self.view: EngineView | None = None
        # One column on its way: packing is cheaper than a tuple, and a view is not made each time.
        self._packed = np.empty(17)
        self._packed_bytes = self._packed.data
        self._near_target: set[int] = set()  # slots that have a `lowest_rank`
        self.ranked = RankedPrefills(capacity)
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        self.capacity = capacity
        self._data = data = np.zeros((20 + MAX_PARTS, capacity))
        self._columns = data[:17].T
        self.linear = data[LINEAR]
        self._queue_s: NDArray[np.float64] = data[5]
        self.prefill_weight, self.cached_weight = data[PREFILL_WEIGHT], data[CACHED_WEIGHT]
        self.requests, self.queued_until, self.busy = data[8:11]
        self.kv_free_tokens, self.kv_soft_free_tokens, self.kv_wait_s_per_token = data[11:14]
        self.tpot_s, self.misses_per_s, self.step_s = data[14:17]
        self.cached_tokens, self.score, self._passed_s = data[CACHED], data[SCORE], data[PASSED]
        self._passes, self._own_queue_s = False, np.zeros(capacity)
        self.parts, self._seen = data[PARTS], data[SEEN]
        self.kv_free_tokens.fill(-1.0)
        self.kv_soft_free_tokens.fill(math.inf)
        self._least_free = self._least_soft_free = math.inf
        self.most_tpot_s = self.most_misses_per_s = self._most_queue_s = 0.0
        self.prefill = np.zeros((3, capacity))
        self._slowest_prefill: tuple[float, float, float] | None = None  # None: rates have changed
        self.prefill_s_per_token, self.prefill_s_per_square = self.prefill[1:]
        self.alone_s = np.zeros(capacity)
        self.lowest_rank = np.full(capacity, -1.0)
        self.step_s_per_sequence = np.zeros(capacity)
        self.step_s_per_context_token = np.zeros(capacity)
        self._standings: list[Standing | None] = [None] * capacity
        self._blocked = np.ones(capacity, dtype=np.bool_)
        self._open = 0
        self._queue_at = 0.0
        self.slots = np.arange(capacity)
        self.multipliers = np.ones(6)
        self.prefill_multipliers = self.multipliers[:3]
        self._excluded = np.empty(capacity, dtype=np.bool_)
        self.excluded = self._blocked
        self.scratch = (np.empty(capacity), np.empty(capacity), np.empty(capacity))
