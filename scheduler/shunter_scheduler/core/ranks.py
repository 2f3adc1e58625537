"""Ranks of priorities: what a higher class is, by how many levels."""

from collections.abc import Iterable

from shunter_api.routingpolicy import RoutingPolicy
from shunter_scheduler.core.admission import STANDARD
from shunter_scheduler.core.headroom import PriorityHeadroom
from shunter_scheduler.core.ledger import NO_RANK
from shunter_scheduler.core.state import CoreState


def renumber(state: CoreState, policies: Iterable[RoutingPolicy]) -> None:
    """Requests keep the class that they were admitted with, though it is changed or removed: all
    are ranked by its priority, among those of the new policies."""
    before = state.ranks
    priorities = {c.priority for policy in policies for c in policy.spec.classes}
    priorities.update(entry.slo_class.priority for entry in state.entries.values())
    priorities.add(STANDARD.priority)
    state.ranks = ranks = {p: rank for rank, p in enumerate(sorted(priorities))}
    if ranks == before:
        return
    for entry in state.entries.values():
        entry.rank = entry.trail.level = ranks[entry.slo_class.priority]
        entry.goes_as = 0
        for made in (entry.reservation, entry.move and entry.move.reservation):
            if made and made.rank != NO_RANK:
                made.rank = entry.rank
    moved = {rank: ranks[priority] for priority, rank in before.items() if priority in ranks}
    for pool in state.pools.values():
        pool.top_rank = len(ranks) - 1
        pool.queue.renumber(moved)
        pool.headroom = PriorityHeadroom()
        for record in pool.records():
            targets = record.tpot_targets
            record.tpot_targets = {(moved[rank], s): n for (rank, s), n in targets.items()}
            load = record.load
            load.by_rank = {moved[rank]: ahead for rank, ahead in load.by_rank.items()}
            pool.mark(record)
