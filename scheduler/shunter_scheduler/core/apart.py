"""What prefill and decode on two instances is predicted to cost, by the policy predicted-cost
whatever the pool dispatches by: for where a prompt goes to, and where it is handed over to."""

import math

import numpy as np
from numpy.random import Generator

from shunter_scheduler.core.dispatch import Pick, make_ask
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.core.moving import takes_kv
from shunter_scheduler.core.roles import Slots
from shunter_scheduler.core.trail import MAX_CANDIDATES, Ranking
from shunter_scheduler.policies.ask import Ask
from shunter_scheduler.policies.columns import Floats
from shunter_scheduler.policies.predicted_cost import PREDICTED_COST


def choose_way(entry: Entry, barred: Slots, now: float, rng: Generator) -> tuple[Slots, Ask | None]:
    """For a prompt that may go both ways, apart or to one instance for all of it, the costlier is
    barred beside the rest. Where it goes apart, what it asks of the instance that prefills."""
    roles = entry.pool.roles
    assert roles is not None
    if entry.started or entry.request.unmovable_reason:
        return barred, None  # it stays where it goes
    first = [record for record in roles.of_role("Prefill") if record.slot not in barred]
    whole = [record for record in roles.of_role("Any") if record.slot not in barred]
    if first and whole:
        barred, apart = _cheaper_way(entry, (first, whole), barred, now, rng)
    else:
        others = roles.of_role("Decode", "Any")
        apart = bool(first) and all(record.slot in barred for record in others)
    return barred, _prompt_of(entry, now) if apart else None


def _cheaper_way(
    entry: Entry,
    ways: tuple[list[InstanceRecord], list[InstanceRecord]],
    barred: Slots,
    now: float,
    rng: Generator,
) -> tuple[Slots, bool]:
    """`ways`: who may prefill, and who may do all of it. True where it goes apart."""
    (first, whole), pool = ways, entry.pool
    assert pool.roles is not None
    pool.refresh(now)
    score = _score(entry, make_ask(entry, now), barred, rng)
    alone_s = float(score[[record.slot for record in whole]].min())
    score = _score(entry, _prompt_of(entry, now), barred, rng)
    prefill_s = float(score[[record.slot for record in first]].min())
    score = _score_decode(entry, first[0], pool.roles.barred(True, barred), now, rng)
    apart_s = prefill_s + float(score.min())
    if math.isinf(min(alone_s, apart_s)):
        return barred, False  # neither has room, and both are tried
    figures = f"{apart_s:.2f} s on two instances, {alone_s:.2f} s on one"
    apart = apart_s < alone_s
    return {**barred, **{r.slot: figures for r in (whole if apart else first)}}, apart


def _prompt_of(entry: Entry, now: float) -> Ask:
    """Without the answer, whose tokens others give."""
    ask = make_ask(entry, now)
    ask.output_tokens, ask.tpot_target_s = 1.0, math.inf
    return ask


def pick_decoder(
    entry: Entry, source: InstanceRecord, barred: Slots, now: float, rng: Generator
) -> Pick | None:
    """Where what has begun to answer at `source` costs the least from here on; None where no
    instance has room for it."""
    pool, columns = entry.pool, entry.pool.columns
    pool.refresh(now)
    score = _score_decode(entry, source, barred, now, rng)
    slot = int(score.argmin())
    if math.isinf(score.item(slot)):
        return None
    ask, record = _answer_of(entry, now), pool.at_slot(slot)
    eligible = columns.capacity - int(np.count_nonzero(columns.excluded))
    seen = columns.seen(MAX_CANDIDATES, slot)
    ranking = Ranking(PREDICTED_COST, ask, seen, barred, eligible, len(pool.instances))
    cached = int(columns.cached_tokens.item(slot))
    prefill_s = record.model.prefill_s(ask.prefill_tokens - cached, cached)
    return Pick(record, prefill_s, prefill_s, cached, ranking, None)


def _score_decode(
    entry: Entry, source: InstanceRecord, barred: Slots, now: float, rng: Generator
) -> Floats:
    """Where its KV is copied to, all of the context counts as cached."""
    return _score(entry, _answer_of(entry, now), barred, rng, source)


def _answer_of(entry: Entry, now: float) -> Ask:
    """From its first token on. The next turns of its conversation go to who prefills."""
    ask = make_ask(entry, now)
    ask.ttft_budget_s, ask.may_wait, ask.next_turns = math.inf, False, False
    return ask


def _score(
    entry: Entry, ask: Ask, barred: Slots, rng: Generator, source: InstanceRecord | None = None
) -> Floats:
    """By slot, until the next call; infinite where the request cannot go."""
    pool, columns = entry.pool, entry.pool.columns
    if pool.headroom.by_rank:
        barred = pool.headroom.kept_from(entry.rank, barred)
    columns.exclude(ask.kv_tokens, barred, ask.rank)
    cached = columns.cached_tokens
    if entry.policy.uses_prefix:
        match = pool.prefix.match(entry.request.block_hashes)
        pool.prefix.fill(match, pool.settings.block_tokens, ask.prefill_tokens - 1, cached)
    else:
        cached.fill(0.0)
    if source is not None and source.kv_transport:
        copied = [r.slot for r in pool.records() if takes_kv(entry, source, r)]
        cached[copied] = ask.prefill_tokens
    PREDICTED_COST.score(columns, ask, rng)
    score: Floats = columns.score
    np.putmask(score, columns.excluded, np.inf)
    return score
