"""Filter, score, pick: one request against the instances of its pool."""

import math
from collections.abc import Mapping

import numpy as np
from msgspec import Struct
from numpy.random import Generator

from shunter_api.rules import DEFAULT_PRIORITY
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.headroom import gathered
from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.core.ledger import NO_RANK, Reservation, reserve
from shunter_scheduler.core.outlook import left_to_generate, left_to_store
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.prefix import HASH_BYTES, Match
from shunter_scheduler.core.trail import MAX_CANDIDATES, Ranking
from shunter_scheduler.core.tuning import AlphaTuner
from shunter_scheduler.policies.ask import Ask
from shunter_scheduler.policies.first_token import ttft_s
from shunter_scheduler.policies.policy import DispatchPolicy

Barred = Mapping[int, str]  # slots that a request may not have, and why
NOBODY: Barred = {}  # shared by nearly all picks

TRIED_BEFORE = "tried before"
OTHER_REVISION = "of another model revision than the one that answers"
KEPT = "kept for a request that has waited long"
OTHERS_FIRST = "others go first"
FOR_THEIR_TARGETS = "others go first, or would miss their targets there"


class Pick(Struct, eq=False, gc=False):
    instance: InstanceRecord
    predicted_ttft_s: float
    prefill_s: float  # of it
    cached_tokens: int
    ranking: Ranking
    match: Match | None


def make_ask(entry: Entry, now: float) -> Ask:
    pool, slo_class, request = entry.pool, entry.slo_class, entry.request
    ttft_s, tpot_s = slo_class.ttft_s, slo_class.tpot_s
    tokens = request.prompt_tokens + entry.output_tokens
    outputs = left_to_generate(entry)
    kv_tokens = tokens + left_to_store(entry)
    budget_s, started = math.inf, entry.started
    if ttft_s is not None and not started:
        budget_s = ttft_s - (now - request.arrived_at)
    return Ask(
        now,
        tokens,
        outputs,
        kv_tokens if kv_tokens < pool.largest_kv_ask else pool.largest_kv_ask,
        budget_s,
        math.inf if tpot_s is None else tpot_s,
        pool.turn,
        pool.settings.weights,
        entry.engine_rank,
        pool.settings.head_room.for_targets and not (started or entry.goes_on or entry.by_age),
    )


PREFIX_KEY_TOKENS = 1024  # prompts that agree in these have one key: a turn and the turns after it


def _look_closer(entry: Entry, ask: Ask) -> None:
    """What a request asks of policies that look at engines."""
    pool, hashes = entry.pool, entry.request.block_hashes
    pool.look_closer()
    if entry.policy.tunes_alpha:
        if pool.tuner is None:
            pool.tuner = AlphaTuner.of(pool.settings.alpha)
        ask.alpha = pool.tuner.alpha
    ask.high_priority = is_high(entry)
    blocks = min(PREFIX_KEY_TOKENS // pool.settings.block_tokens, len(hashes) // HASH_BYTES)
    end = blocks * HASH_BYTES
    ask.prefix_key = int.from_bytes(hashes[end - HASH_BYTES : end] if blocks else b"", "little")


def is_high(entry: Entry) -> bool:
    """Of a class above `standard`."""
    return entry.slo_class.priority > DEFAULT_PRIORITY


def pick(
    entry: Entry, now: float, rng: Generator, barred: Barred, ask: Ask | None = None
) -> Pick | None:
    """None where no instance has head room, or none is worth it (`policies.hold_back`). Changes
    nothing but scratch space. `ask`: where it is not all of the request that is asked for."""
    pool, policy = entry.pool, entry.policy
    if ask is None:
        ask = make_ask(entry, now)
    if policy.uses_view:
        _look_closer(entry, ask)
    pool.refresh(now)
    if pool.headroom.by_rank:
        barred = pool.headroom.kept_from(entry.rank, barred)
    columns = pool.columns
    eligible = columns.exclude(ask.kv_tokens, barred, ask.rank)
    pool.holds_back = False
    if not eligible:
        return None
    match = None
    if policy.uses_prefix:
        match = pool.prefix.match(entry.request.block_hashes)
        ask.any_cached = match.matched_bytes > 0
        limit = ask.prefill_tokens - 1  # the last token is always computed
        pool.prefix.fill(match, pool.settings.block_tokens, limit, columns.cached_tokens)
    if entry.rank and ask.tpot_target_s < math.inf and pool.settings.head_room.for_priorities:
        elsewhere = gathered(pool, entry.rank, ask.tpot_target_s)
        if elsewhere:
            barred = {**elsewhere, **barred}
            eligible = columns.exclude(ask.kv_tokens, barred, ask.rank)
    policy.score(columns, ask, rng)
    score = columns.score
    if eligible < columns.capacity:
        np.putmask(score, columns.excluded, np.inf)
    slot = int(score.argmin())
    pool.holds_back = score.item(slot) == math.inf
    if pool.holds_back:
        return None
    cached = 0 if match is None else int(columns.cached_tokens.item(slot))
    record = pool.at_slot(slot)
    prefill_s = record.model.rates.prefill_s(ask.prefill_tokens - cached, cached)
    predicted_s = ttft_s(columns, slot, ask, prefill_s)
    ranking = _ranking(pool, policy, ask, barred, eligible, slot)
    return Pick(record, predicted_s, prefill_s, cached, ranking, match)


def nothing_fits(entry: Entry, now: float) -> Ranking:
    """Who was looked at, and why each was taken out, for the explanation of a hold."""
    pool = entry.pool
    pool.refresh(now)
    ask, barred = make_ask(entry, now), pool.headroom.kept_from(entry.rank, barred_slots(entry))
    eligible = pool.columns.exclude(ask.kv_tokens, barred, ask.rank)
    pool.columns.score.fill(np.inf)
    pool.columns.cached_tokens.fill(0.0)
    ranking = _ranking(pool, entry.policy, ask, barred, eligible, None)
    near = pool.columns.most_misses_per_s > 0.0
    ranking.unranked_because = OTHERS_FIRST if not near else FOR_THEIR_TARGETS
    return ranking


def barred_slots(entry: Entry) -> Barred:
    """Slots the request has failed on, once it answers those of other model revisions, and those
    whose role is not for it. Where nothing else is in service the first count again, since an
    engine that has come back is better than none, and the last."""
    barred, roles = _not_again(entry), entry.pool.roles
    return barred if roles is None else roles.barred(entry.started, barred)


def _not_again(entry: Entry) -> Barred:
    names, revision = entry.request.excluded_instances, entry.trail.revision
    if not names and (revision is None or not entry.started):
        return NOBODY
    others: dict[int, str] = {}
    failed_on: dict[int, str] = {}
    fit = False
    for record in entry.pool.records():
        if entry.started and revision is not None and record.value.revision != revision:
            others[record.slot] = OTHER_REVISION
        elif record.name in names:
            failed_on[record.slot] = TRIED_BEFORE
        else:
            fit = fit or record.in_service
    return others | failed_on if fit else others


def slot_to_keep(entry: Entry, now: float) -> Barred:
    """The instance with the most free KV memory of those that can hold the request once enough
    has ended there; none where no instance in service can."""
    pool = entry.pool
    barred = pool.headroom.kept_from(entry.rank, barred_slots(entry))
    ask = make_ask(entry, now)
    share = 1 - pool.settings.head_room.kv_watermark
    fit = [
        record
        for record in pool.records()
        if record.in_service
        and record.slot not in barred
        and record.kv_capacity_tokens * share >= ask.kv_tokens
    ]
    if not fit:
        return NOBODY
    most_free = max(fit, key=lambda record: record.kv_capacity_tokens - record.load.kv_tokens)
    return {most_free.slot: KEPT}


def _ranking(
    pool: PoolRecord,
    policy: DispatchPolicy,
    ask: Ask,
    barred: Barred,
    eligible: int,
    winner: int | None,
) -> Ranking:
    seen = pool.columns.seen(MAX_CANDIDATES, winner)
    return Ranking(policy, ask, seen, barred, eligible, len(pool.instances))


def reserve_for(entry: Entry, picked: Pick, now: float) -> Reservation:
    """Books the pick: ledger, queue ahead, prefix index. The caller keeps the reservation."""
    record, pool = picked.instance, entry.pool
    reservation = _book(entry, record, picked.ranking.ask, picked.prefill_s, now)
    if picked.match is not None:
        pool.prefix.insert(record.slot, entry.request.block_hashes, picked.match)
        if pool.kv is not None:
            pool.kv.dispatched(record.slot, entry.request, now)
    pool.turn = record.slot + 1
    return reservation


def reserve_at(
    entry: Entry, record: InstanceRecord, ask: Ask, cached_tokens: int, now: float
) -> Reservation:
    """Books an instance, but for the prefix index."""
    prefill_s = record.model.prefill_s(ask.prefill_tokens - cached_tokens, cached_tokens)
    return _book(entry, record, ask, prefill_s, now)


def _book(
    entry: Entry, record: InstanceRecord, ask: Ask, prefill_s: float, now: float
) -> Reservation:
    pool, tokens = entry.pool, ask.prefill_tokens
    outputs = math.ceil(ask.output_tokens)
    record.queue_starts(now, prefill_s)
    kv_tokens = tokens + math.ceil(left_to_store(entry))
    rank = entry.engine_rank if pool.orders else NO_RANK
    load, high = record.load, is_high(entry)
    reservation = reserve(load, kv_tokens, prefill_s, outputs, high, tokens, rank)
    # In a batch that decodes anyway a prefill takes no base of its own.
    record.prefills.add(now, prefill_s - record.model.rates.prefill_base_s)
    if pool.columns.view is not None:
        record.sent.add(tokens)
    record.requests[entry.request_id] = None
    if (tpot_s := entry.slo_class.tpot_s) is not None:
        record.hosts(entry.rank, tpot_s)
    pool.mark(record)
    return reservation
