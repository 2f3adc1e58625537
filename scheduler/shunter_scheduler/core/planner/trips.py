"""Where those of a case may go, and how."""

from collections.abc import Iterator, Sequence

import numpy as np

from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.planner.fleet import Bools, Fleet, Floats, Indices
from shunter_scheduler.core.planner.gain import LEAST_NET_S, Trip
from shunter_scheduler.core.planner.party import Party
from shunter_scheduler.core.planner.traffic import copy_s_per_token
from shunter_scheduler.core.planner.view import Case, View

DESTINATIONS = 16  # weighed for one case, those with the shortest steps
MOST_REUSE = 4.0  # of a token in a prefix cache, where nearly all prompts are hits


def trips_for(view: View, case: Case, who: Party) -> Iterator[Trip]:
    """With KV caches where they can be copied; where that stops the requests, without as well."""
    without = np.zeros(len(view.fleet), np.bool_)
    copies = _copies(view, case.source) if who.entries[0].started else without
    ways = [copies]
    if view.pool.stop_copies is not None and copies.any():
        ways.append(without)
    for way in ways:
        trip = _trip(view, case, who, way)
        if trip is not None:
            yield trip


def _trip(view: View, case: Case, who: Party, copies: Bools) -> Trip | None:
    """None where nobody may go anywhere."""
    fleet, settings = view.fleet, view.state.settings
    restart = not who.entries[0].started
    open_ = view.traffic.may_take(case.source, copies) & fleet.open
    open_ &= fleet.requests < view.pool.settings.head_room.max_requests
    if not restart:
        open_ &= fleet.revision == fleet.revision[case.source]
    if case.destinations is not None:
        open_ &= case.destinations
    if view.pool.roles is not None:
        open_ &= view.pool.roles.suit(fleet.records, not restart)
    open_[case.source] = False
    near = _nearest(fleet, open_)
    if not len(near):
        return None
    possible = _possible(fleet, who, near) & _known(who, copies[near])
    stops = view.pool.stop_copies if copies.any() else None
    if stops is not None:
        possible &= ~copies[near] | (who.context < stops.bound_tokens)
    if not possible.any():
        return None
    return Trip(
        case.source,
        near,
        possible,
        restart,
        copies[near],
        _cached(view, who.entries, near, copies[near]),
        copy_s_per_token(fleet, case.source, settings.moves.kv_bytes_per_s),
        _reuse(view),
        1.0 + settings.moves.hysteresis,
        0.0 if case.bonus else LEAST_NET_S,
        case.eases,
        settings.weights.miss_s,
        case.bonus,
        stops,
    )


def _copies(view: View, source: int) -> Bools:
    """Where KV can be copied to, as `rung_between` has it."""
    fleet = view.fleet
    transport = fleet.transport[source]
    if transport < 0 or view.pool.spec.migration.mode != "Auto":
        return np.zeros(len(fleet), dtype=np.bool_)
    copies: Bools = fleet.transport == transport
    return copies


def _nearest(fleet: Fleet, open_: Bools) -> Indices:
    """Those with the shortest steps."""
    found = np.flatnonzero(open_)
    speed = fleet.step_s[found] + fleet.queue_s[found]
    if len(found) > DESTINATIONS:
        best = np.argpartition(speed, DESTINATIONS)[:DESTINATIONS]
        found, speed = found[best], speed[best]
    nearest: Indices = found[np.argsort(speed, kind="stable")]
    return nearest


def _possible(fleet: Fleet, who: Party, near: Indices) -> Bools:
    """With room for the whole request above the watermark, not kept for a higher class, and not one
    that has refused it."""
    possible: Bools = fleet.free[near] >= who.context
    if (fleet.target_rank[near] >= 0).any():
        share = fleet.per_sequence_s[near] + who.mean_context * fleet.per_token_s[near]
        ranks = np.array([[entry.rank] for entry in who.entries])
        kept = fleet.step_s[near] + share > fleet.target_s[near]
        possible &= ~kept | (fleet.target_rank[near] <= ranks)
    for row, entry in enumerate(who.entries):
        barred = entry.refused_by + entry.request.excluded_instances
        if barred:
            possible[row] &= [fleet.records[at].name not in barred for at in near.tolist()]
    return possible


def _known(who: Party, copies: Bools) -> Bools:
    """Without those who would be replayed and cannot be, as their gateways have said."""
    only_kv = np.array([[entry.only_kv] for entry in who.entries])
    known: Bools = ~only_kv | copies
    return known


def _cached(view: View, entries: Sequence[Entry], near: Indices, copies: Bools) -> Floats:
    """Tokens of each prompt that each destination has in its prefix cache. Where KV is copied that
    is hardly ever much, and saves nothing."""
    out: Floats = np.zeros((len(entries), len(near)))
    if copies.all():
        return out
    pool = view.pool
    held = np.zeros(pool.columns.capacity)
    slots = [view.fleet.records[at].slot for at in near.tolist()]
    for row, entry in enumerate(entries):
        hashes, limit = entry.request.block_hashes, entry.context_tokens - 1
        if hashes:
            held.fill(0.0)
            pool.prefix.fill(pool.prefix.match(hashes), pool.settings.block_tokens, limit, held)
            out[row] = held[slots]
    return out


def _reuse(view: View) -> float:
    """How often a token that was computed is hit later, by the hits there were so far."""
    hits = view.pool.hits
    computed = hits.prompt_tokens - hits.hit_tokens
    return min(MOST_REUSE, hits.hit_tokens / computed) if computed > 0 else 0.0
