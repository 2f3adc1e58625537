"""What gateways report about requests: first token, progress, end, failure, loss of a gateway."""

import math

from shunter_scheduler.core import metering
from shunter_scheduler.core.admission import (
    STANDARD,
    Refused,
    admit,
    find_route,
    make_entry,
    make_route,
)
from shunter_scheduler.core.dispatch import is_high
from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.holds import hold
from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.core.ledger import NS, reserve
from shunter_scheduler.core.outlook import left_to_generate, left_to_store, look_ahead
from shunter_scheduler.core.probing import decode_begins, decode_seen, prefill_seen
from shunter_scheduler.core.state import CoreState, spec_of
from shunter_scheduler.core.trail import Trail
from shunter_scheduler.domain.events import (
    Failed,
    Finished,
    FirstToken,
    GatewayLost,
    Progress,
    Running,
    Submitted,
)

NOT_THE_ENGINES_FAULT = frozenset({"overloaded"})
ANSWERED = frozenset({"stop", "length", "tool_calls", "content_filter"})


def submitted(state: CoreState, event: Submitted, now: float) -> None:
    request = event.request
    known = state.entries.get(request.request_id)
    if known is None:
        ended = state.ended.get(request.request_id)
        if ended is None or request.epoch > ended.ended_epoch:
            admit(state, request, now)
        elif ended.rejected is not None and ended.rejected.epoch == request.epoch:
            state.outbox.append(ended.rejected)  # the gateway has not seen the first one
    elif request.epoch > known.epoch or (request.epoch == known.epoch and _lost(known)):
        if known.instance is not None and known.instance.drain is not None:
            known.instance.drain.moved += 1
        state.end(known, now)
        admit(state, request, now)
    elif request.epoch == known.epoch:
        _say_again(state, known, now)


def _lost(entry: Entry) -> bool:
    """Assigned, but to an instance that has gone since."""
    return entry.state != "waiting" and entry.instance is None


def _say_again(state: CoreState, entry: Entry, now: float) -> None:
    """The gateway has not seen what was decided. What is still to be decided it will see."""
    if entry.instance is not None:
        state.assign(entry, entry.instance.name)
    elif entry.state == "waiting" and entry.held_position is not None:
        hold(state, entry, entry.pool.queue.position(entry), now)


def running(state: CoreState, event: Running, now: float) -> None:
    """The gateway's journal is the record: what it says replaces what was known."""
    request = event.request
    known = state.entries.get(request.request_id)
    if known is not None:
        if request.epoch < known.epoch:
            return
        if request.epoch == known.epoch and known.instance_name == event.instance:
            if known.instance is not None:
                cancel_again(known.instance)
            return
        state.end(known, now)
    trail = state.ended.take_back(request.request_id)
    if trail is not None and trail.ended_epoch >= request.epoch:
        state.ended.keep(trail)
        return
    adopt(state, event, trail, now)


def adopt(state: CoreState, event: Running, trail: Trail | None, now: float) -> None:
    request = event.request
    record = state.instances.get(event.instance)
    pool_name = record.value.pool if record else request.pool
    pool = state.pools.get(pool_name)
    if pool is None:
        return  # neither the instance nor the pool is configured: nothing to account for
    try:
        route = find_route(state, request, pool)
    except Refused:  # configured otherwise since; it runs all the same
        route = make_route(state, (pool,), STANDARD, "", spec_of(None))
    entry = make_entry(state, request, route, trail, now)
    entry.state = entry.trail.state = "running"
    entry.instance_name = event.instance
    entry.metered_tokens = 0.0  # what it has used before nobody knows
    metering.begin(entry)
    state.add_entry(entry)
    if record is not None:
        occupy(state, entry, record)
        if pool.roles is not None:
            state.planner.to_hand_over[entry.request_id] = None
    state.trace(entry, now, "dispatch", winner=event.instance, reason="reported as running")


def occupy(state: CoreState, entry: Entry, record: InstanceRecord) -> None:
    """Books a request that runs on an instance already, and in that instance's pool: the gateway
    may know the instance by a pool that it was in before."""
    entry.pool = state.pools[record.value.pool]
    entry.trail.pool = entry.pool.name
    outputs = math.ceil(left_to_generate(entry))
    high = is_high(entry)
    kv_tokens = entry.context_tokens + math.ceil(left_to_store(entry))
    reservation = reserve(record.load, kv_tokens, 0.0, outputs, high, entry.context_tokens)
    if entry.output_tokens:
        reservation.started()
    entry.reservation = reservation
    entry.instance = record
    entry.instance_name = record.name
    entry.trail.revision = record.value.revision
    record.requests[entry.request_id] = None
    if (tpot_s := entry.slo_class.tpot_s) is not None:
        record.hosts(entry.rank, tpot_s)
    entry.pool.mark(record)
    cancel_again(record)


def cancel_again(record: InstanceRecord) -> None:
    """A gateway that says what runs there past a drain's deadline has not heard the end of it, or
    has dropped it because the request was at another instance, or in another epoch, then."""
    if record.drain is not None:
        record.drain.cancelled = False


def first_token(state: CoreState, event: FirstToken, now: float) -> None:
    entry = _owned(state, event.request_id, event.epoch)
    if entry is None or entry.first_token_at is not None:
        return
    entry.first_token_at = entry.progressed_at = now
    _prefill_done(state, entry, event, now)
    trail, pool = entry.trail, entry.pool
    if event.unordered:
        pool.orders = False  # until it is configured anew
    if entry.account is not None and entry.target_work_s:
        entry.account.turns.drain.first_token(now - entry.placed_at - entry.target_work_s)
    if pool.roles is not None:
        state.planner.to_hand_over[entry.request_id] = None
    if trail.first_token_at is None and not entry.request.output_tokens:
        ttft_s = now - entry.request.arrived_at
        pool.level.first_token(now, ttft_s)
        trail.first_token_at = now
        trail.cached_tokens = event.cached_tokens
        trail.met_ttft = entry.slo_class.ttft_s is None or ttft_s <= entry.slo_class.ttft_s


def _prefill_done(state: CoreState, entry: Entry, event: FirstToken, now: float) -> None:
    record, reservation, pool = entry.instance, entry.reservation, entry.pool
    if record is None or reservation is None:
        return
    if reservation.started():
        base_ns = round(record.model.rates.prefill_base_s * NS)
        record.prefilled_ns += max(0, reservation.prefill_ns - base_ns)
        record.queue_moves(now)
        pool.mark(record)
    if record.succeeded():
        pool.mark(record)
    cached_tokens = event.cached_tokens or 0
    if event.cached_tokens is not None:
        pool.hits.observe(entry.context_tokens, entry.cached_tokens, cached_tokens)
    if pool.kv is not None:
        pool.kv.first_token(event.request_id, cached_tokens, now)
    if prefill_seen(record, entry, event.ttft_s, cached_tokens, now):
        pool.corrected(record.model)
    decode_begins(record, entry, entry.output_tokens + 1, now)
    state.wake(pool)


def progress(state: CoreState, event: Progress, now: float) -> None:
    entry = _owned(state, event.request_id, event.epoch)
    if entry is None or event.output_tokens <= entry.output_tokens:
        return
    _generated(entry, event.output_tokens)
    if entry.metered_tokens is not None:
        metering.overdraw(entry, now)
    entry.progressed_at = now
    record = entry.instance
    if record is not None and decode_seen(record, entry, event.output_tokens, now):
        entry.pool.corrected(record.model)


def _generated(entry: Entry, output_tokens: int) -> None:
    """The reservation grows where a request runs longer than expected."""
    entry.output_tokens = output_tokens
    if entry.charged_tokens is not None:
        metering.generated(entry)
    reservation, record = entry.reservation, entry.instance
    if reservation is None or record is None:
        return
    if output_tokens >= entry.look_again_at:
        look_ahead(entry)
    context_tokens, kv_tokens = entry.context_tokens, reservation.kv_tokens
    needed = context_tokens + math.ceil(left_to_store(entry))
    reservation.resize(
        needed if needed > kv_tokens else kv_tokens,
        math.ceil(left_to_generate(entry)),
        context_tokens,
    )
    entry.pool.mark(record)


def finished(state: CoreState, event: Finished, now: float) -> None:
    entry = state.entries.get(event.request_id)
    if entry is None or event.epoch < entry.epoch:
        return
    _learn(state, entry, event, now)
    record = entry.instance
    if record is not None and record.drain is not None:
        record.drain.ended(event.finish_reason)
    trail, reason = entry.trail, event.finish_reason
    if event.output_tokens > entry.output_tokens:
        entry.output_tokens = event.output_tokens
    trail.ended_epoch = event.epoch
    trail.state = "cancelled" if reason == "cancelled" else "finished"
    if reason in ("error", "expired"):
        trail.state = "failed"
    state.end(entry, now)


def _learn(state: CoreState, entry: Entry, event: Finished, now: float) -> None:
    """What an answer says about output lengths, decode rates and the service level."""
    if event.finish_reason == "cancelled":
        return
    trail, pool, tokens = entry.trail, entry.pool, event.output_tokens
    if event.finish_reason not in ANSWERED:
        pool.level.ended(now, False, tokens)
        return
    entry.lengths.observe(tokens, event.finish_reason == "length")
    if not entry.request.output_tokens:
        pool.length_errors.observe(tokens, *entry.predicted_tokens)
    if entry.request.stage:
        _learn_stage(state, entry, now)
    if pool.tuner is not None:
        pool.tuner.ended(state.timers, entry, tokens, now)
    met = trail.met_ttft
    if trail.first_token_at is not None and tokens > 1 and entry.slo_class.tpot_s is not None:
        met = met and (now - trail.first_token_at) / (tokens - 1) <= entry.slo_class.tpot_s
    pool.level.ended(now, met, tokens)
    record = entry.instance
    if record is None or record.probe.of is not entry:
        return
    if decode_seen(record, entry, tokens, now, last=True):
        pool.corrected(record.model)


def _learn_stage(state: CoreState, entry: Entry, now: float) -> None:
    """What a stage of a workflow takes, where one instance did all of it."""
    request, record = entry.request, entry.instance
    moved = entry.epoch != request.epoch
    if record is not None and entry.placed_at and not entry.goes_on and not moved:
        seconds = now - entry.placed_at
        durations = state.workflows.durations
        durations.observe(request.model, request.stage, record.value.profile, seconds)


def failed(state: CoreState, event: Failed, now: float) -> None:
    entry = _owned(state, event.request_id, event.epoch)
    if entry is None:
        return
    record = state.instances.get(event.instance)
    if record is not None and event.reason not in NOT_THE_ENGINES_FAULT:
        if record.failed(now, state.settings) and record.ejected_until is not None:
            state.timers.push(record.ejected_until, "instance", record.name)
        state.pools[record.value.pool].mark(record)
    if record is not None and record.drain is not None:
        record.drain.failed += 1
    trail = entry.trail
    entry.output_tokens = max(entry.output_tokens, event.output_tokens)
    trail.state = "failed"
    trail.ended_epoch = event.epoch
    trail.failures += 1
    trail.failed_on = event.instance
    state.end(entry, now)


def gateway_lost(state: CoreState, event: GatewayLost, now: float) -> None:
    for request_id in sorted(state.of_gateway.get(event.gateway_id, ())):
        entry = state.entries[request_id]
        entry.trail.state = "cancelled"
        state.end(entry, now)


def _owned(state: CoreState, request_id: str, epoch: int) -> Entry | None:
    """None where the request is unknown, or the event is of another epoch than the owner's."""
    entry = state.entries.get(request_id)
    return entry if entry is not None and entry.epoch == epoch else None
