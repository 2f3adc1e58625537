"""Headroom for priorities: who runs where one more request would be one too many.

The load that an instance may have for the sake of a class is the one at which a step takes as long
as the class's TPOT target (Llumnix, OSDI 2024, section 4.4, has it as a number of tokens). What
lies above it is kept from lower classes: they go elsewhere, or wait. So each instance where such a
class runs is one that lower ones lose some of. `gathered` keeps them few: of instances that are
about as fast, a request goes where its class runs already.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.policies.misses import MARGIN

if TYPE_CHECKING:
    from shunter_scheduler.core.pool import PoolRecord

ABOUT = 1.1  # times the time per token of the fastest
ELSEWHERE = "its class runs on others that are about as fast"


class PriorityHeadroom:
    """Of the instances of one pool, by slot. Most of the time nobody needs any, and `by_rank` is
    empty."""

    __slots__ = ("by_rank",)

    def __init__(self) -> None:
        self.by_rank: dict[int, dict[int, str]] = {}  # rank that has it -> slot -> why

    def update(self, record: InstanceRecord, tpot_s: float) -> None:
        """`tpot_s`: of a step with one more request."""
        self.clear(record.slot)
        if not record.tpot_targets or record.hands_over:
            return
        alone_s = record.model.alone_s  # what it misses even so, no room can give it
        slow = [key for key in record.tpot_targets if tpot_s > key[1] > alone_s]
        if slow:
            rank, target_s = max(slow)
            why = f"kept for a higher class: {tpot_s * 1000:.0f} ms a token, its target is"
            self.by_rank.setdefault(rank, {})[record.slot] = f"{why} {target_s * 1000:.0f} ms"

    def clear(self, slot: int) -> None:
        for rank, slots in list(self.by_rank.items()):
            if slots.pop(slot, None) is not None and not slots:
                del self.by_rank[rank]

    def kept_from(self, rank: int, barred: Mapping[int, str]) -> Mapping[int, str]:
        """`barred`, and the slots that a class of this rank may not have."""
        for above, slots in self.by_rank.items():
            if above > rank:
                barred = {**slots, **barred}
        return barred


def gathered(pool: "PoolRecord", rank: int, target_s: float) -> dict[int, str]:
    """Slots where nobody of this rank or above runs, if there is another about as fast: within the
    class's TPOT target, with no prefill ahead, and no less of the prompt cached. None where no
    instance comes near the target: nobody loses room there. To be asked after `columns.exclude`
    and once `columns.cached_tokens` are known."""
    columns = pool.columns
    near_s = (1 - MARGIN) * target_s
    if columns.most_tpot_s <= near_s or not columns.tpot_exceeds(near_s):
        return {}
    tpot_s, cached, open_ = columns.tpot_s, columns.cached_tokens, ~columns.excluded
    fastest_s = float(tpot_s.min(where=open_, initial=target_s))
    as_good = open_ & (tpot_s <= min(target_s, ABOUT * fastest_s))
    as_good &= cached >= cached.max(where=open_, initial=0.0)
    as_good_slots = as_good.tolist()
    found, others = False, {}
    for record in pool.instances.values():
        if any(key[0] >= rank for key in record.tpot_targets):
            found = found or (as_good_slots[record.slot] and not record.load.prefilling)
        else:
            others[record.slot] = ELSEWHERE
    return others if found else {}
