"""What moves gain and cost, in predicted seconds, summed over all whom they concern.

Gains, of which those at the destination may be negative:
    decode    the moved requests' tokens to come, at another time per token
    others    those that stay behind take shorter steps, those at the destination longer ones
    slo       targets that are likely missed here and not there, weighted as dispatch does
    memory    recomputation after preemptions that the source is heading for
    wait      of requests that get a place, or a turn, by it
    money     the price of the time that it takes up
Costs:
    prefill   of prompt and tokens so far at the destination, and what it holds up there (replay)
    copy      what steps on both sides lose while KV blocks are copied, and those at the destination
              by the memory that is held there meanwhile (kv); where an engine decodes nothing
              meanwhile, all of that time
    cache     what the destination's prefix cache loses to the blocks that come
    stall     the gap that the client sees, with the copy where that stops the request

A difference of speed lasts until dispatch has evened it out, `View.horizon_s`; memory that runs out
does not wait for that. How long a request will be there to gain is taken from the distribution of
what is left of answers as long as its own.
"""

from dataclasses import dataclass

import numpy as np

from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.planner.fleet import Bools, Fleet, Floats, Indices
from shunter_scheduler.core.planner.party import Party
from shunter_scheduler.core.stop_copy import STALL_STEPS, SWITCH_S, StopCopies
from shunter_scheduler.domain.decisions import Rung
from shunter_scheduler.policies.misses import MARGIN, TTFT_MARGIN

# Decode steps run slower by this share while KV is copied (Llumnix, OSDI 2024, section 6.2: 1 %;
# its artifact claims 2 to 3 %).
COPY_SLOWDOWN = 0.03
# What no prediction knows of: the gateway's work, and the chance to fail. And the greatest of many
# predicted gains is the one that is overrated most.
LEAST_NET_S = 0.5
MOST_CHANCES = 2.0  # for a preemption

Terms = list[tuple[str, Floats]]


@dataclass(frozen=True, slots=True)
class Trip:
    """From one instance to some others, and what else speaks for it."""

    source: int
    destinations: Indices
    possible: Bools  # by request and destination
    restart: bool  # before the first token; else by copy where `copies`, and by replay
    copies: Bools
    cached: Floats  # of the context, by request and destination
    kv_s_per_token: float  # to copy
    reuse: float  # how often a token in a prefix cache is hit, in the mean
    margin: float  # a gain has to exceed so many times the cost
    least_s: float  # by so much
    eases: bool  # memory at the source
    miss_s: float  # what keeping the targets of a request is worth
    bonus: tuple[str, float] | None = None  # a further term of the trigger
    stops: StopCopies | None = None  # where the copies stop their requests


@dataclass(frozen=True, slots=True)
class Weighed:
    """The best of all these moves. `terms`: gains negative, costs positive, so that their sum is
    the score of going, where that of staying is 0."""

    entry: Entry
    destination: int
    rung: Rung
    gain_s: float
    cost_s: float
    left: float
    terms: tuple[tuple[str, float], ...]

    @property
    def net_s(self) -> float:
        return self.gain_s - self.cost_s


def weigh(fleet: Fleet, who: Party, trip: Trip) -> Weighed | None:
    """The request and the destination with the most gain less cost; None where nothing pays."""
    gains, costs = _gains(fleet, who, trip), _costs(fleet, who, trip)
    shape = trip.possible.shape
    gain, cost = _total(gains, shape), _total(costs, shape)
    pays = trip.possible & (gain > trip.margin * cost + trip.least_s)
    if not pays.any():
        return None
    net = np.where(pays, gain - cost, -np.inf)
    row, column = divmod(int(net.argmax()), shape[1])

    def at(values: Floats) -> float:
        return float(np.broadcast_to(values, shape)[row, column])

    terms = [(name, -at(values)) for name, values in gains]
    terms += [(name, at(values)) for name, values in costs]
    kv = bool(trip.copies[column])
    return Weighed(
        who.entries[row],
        int(trip.destinations[column]),
        "restart" if trip.restart else "kv" if kv else "replay",
        float(gain[row, column]),
        float(cost[row, column]),
        float(who.left[row, 0]),
        tuple((name, value) for name, value in terms if value),
    )


def _total(terms: Terms, shape: tuple[int, ...]) -> Floats:
    total: Floats = np.zeros(shape)
    for _, values in terms:
        total += values
    return total


def _gains(fleet: Fleet, who: Party, trip: Trip) -> Terms:
    s, d = trip.source, trip.destinations
    step = float(fleet.step_s[s])
    share = fleet.per_sequence_s[d] + who.mean_context * fleet.per_token_s[d]
    there = fleet.step_s[d] + share
    gains: Terms = []
    if not trip.restart:
        shorter = step - there
        if not fleet.alike:  # what is in doubt is no gain
            sure = np.maximum(0.0, shorter - fleet.doubt_s(s, d))
            shorter = np.where(shorter > 0, sure, shorter)
        gains.append(("decode", who.soon * shorter))
        gains.append(("others", _on_others(fleet, who, trip, share)))
    if trip.restart or (who.target_s < np.inf).any() or fleet.misses_per_s[d].any():
        gains.append(("slo", trip.miss_s * _missed(fleet, who, trip, there)))
    gains.append(("memory", _memory(fleet, who, trip)))
    if trip.restart:
        ahead = fleet.queue_s[d] + fleet.prefill_s(who.context, d)
        gains.append(("wait", who.wait_s - ahead))
    if fleet.priced:
        here = fleet.price[s] * who.soon * step / max(1.0, float(fleet.requests[s]))
        gains.append(("money", here - fleet.price[d] * who.soon * there / (fleet.requests[d] + 1)))
    if trip.bonus is not None:
        gains.append((trip.bonus[0], np.array(trip.bonus[1])))
    return gains


def _on_others(fleet: Fleet, who: Party, trip: Trip, share: Floats) -> Floats:
    """Seconds that those at the source win, less those that those at each destination lose, until
    the first of the two ends. `share`: of a step there."""
    s, d = trip.source, trip.destinations
    share_s = fleet.per_sequence_s[s] + who.mean_context * fleet.per_token_s[s]
    left_s = np.minimum(who.soon, float(fleet.mean_left[s]))
    relief = max(0.0, float(fleet.requests[s]) - 1) * left_s * share_s
    harm: Floats = fleet.requests[d] * np.minimum(who.soon, fleet.mean_left[d]) * share
    return np.asarray(relief - harm)


def _missed(fleet: Fleet, who: Party, trip: Trip, there: Floats) -> Floats:
    """Targets: its own that are likelier missed here than there, and those of others there that are
    likelier missed with it."""
    s, d = trip.source, trip.destinations
    tokens = who.made + who.left
    step = float(fleet.step_s[s])
    stall = STALL_STEPS * fleet.step_s[d] + SWITCH_S + _stopped_s(who, trip)
    here_s = who.spent_s + who.left * step
    there_s = here_s + stall + who.counts * (there - step)
    spared = _likely(here_s / tokens, who.target_s) - _likely(there_s / tokens, who.target_s)
    if trip.restart:
        ttft = fleet.queue_s[d] + fleet.prefill_s(who.context, d)
        low, high = 1 - TTFT_MARGIN, 1 + TTFT_MARGIN
        late = who.wait_s > high * who.ttft_left_s
        spared = spared + (late & (ttft < low * who.ttft_left_s))
        spared = spared - (~late & (ttft > low * who.ttft_left_s))
    lasts = np.minimum(1.0, who.soon / fleet.mean_left[d])
    out: Floats = spared - fleet.misses_per_s[d] * (there - fleet.step_s[d]) * lasts
    return out


def _likely(predicted_s: Floats, target_s: Floats) -> Floats:
    """As `likely_missed` of dispatch, for a target each."""
    beyond = (predicted_s / target_s - (1 - MARGIN)) / (2 * MARGIN)
    out: Floats = np.minimum(1.0, np.maximum(0.0, beyond))
    return out


def _memory(fleet: Fleet, who: Party, trip: Trip) -> Floats:
    """What preemptions are likely to take at the source less what they would at the destination: a
    prompt and answer is computed again once as much memory is free. It may happen whenever a
    request ends, and another is not there yet, for as long as both last."""
    s, d = np.array([trip.source]), trip.destinations
    tightened = fleet.risk_with(d, who.context) - fleet.risk()[d]
    there_s: Floats = tightened * _preempted_s(fleet, who, d)
    if not trip.eases:
        return -there_s
    eased = fleet.risk()[s] - fleet.risk_with(s, -who.context)
    out: Floats = eased * _preempted_s(fleet, who, s) - there_s
    return out


def _preempted_s(fleet: Fleet, who: Party, of: Indices) -> Floats:
    """Seconds that one preemption after another takes while the request is there."""
    requests, left = np.maximum(1.0, fleet.requests[of]), fleet.mean_left[of]
    chances = requests * np.minimum(who.later, left) / left
    chances = np.minimum(MOST_CHANCES, np.maximum(1.0, chances))
    seconds: Floats = chances * fleet.preempted_s()[of]
    return seconds


def _costs(fleet: Fleet, who: Party, trip: Trip) -> Terms:
    s, d = trip.source, trip.destinations
    requests = fleet.requests[d]
    copied = not trip.restart and bool(trip.copies.all())
    if copied and not trip.reuse:
        return [("copy", _copy_s(fleet, who, trip)), ("stall", _stall_s(fleet, who, trip))]
    missing = np.maximum(0.0, who.context - trip.cached)
    prefill = fleet.prefill_s(who.context, d) * missing / who.context
    if trip.restart:  # the same work is saved at the source
        there = fleet.prefill_s(who.context, np.array([s])) * (1.0 - who.cached / who.context)
        saved = there * max(0.0, fleet.requests[s] - 1)
        more = np.maximum(0.0, prefill * requests - saved) + np.maximum(0.0, prefill - there)
        return [("prefill", more), ("stall", np.array(SWITCH_S))]
    return [
        ("prefill", np.where(trip.copies, 0.0, prefill * (requests + 1))),
        ("copy", np.where(trip.copies, _copy_s(fleet, who, trip), 0.0)),
        ("cache", trip.reuse * prefill),
        ("stall", _stall_s(fleet, who, trip)),
    ]


def _stopped_s(who: Party, trip: Trip) -> Floats:
    """How long the copy keeps the request from running."""
    if trip.stops is None:
        return np.zeros(())
    return np.where(trip.copies, trip.stops.takes_s(who.context), 0.0)


def _copy_s(fleet: Fleet, who: Party, trip: Trip) -> Floats:
    s, d = trip.source, trip.destinations
    requests = fleet.requests[d]
    if trip.stops is not None:
        here = max(0.0, float(fleet.requests[s]) - 1.0)
        return trip.stops.neighbours_s(who.context, here, requests)
    copy_s = who.context * trip.kv_s_per_token
    slowed = COPY_SLOWDOWN * copy_s * (fleet.requests[s] + requests)
    held = copy_s * requests * who.context / np.maximum(1.0, fleet.capacity[d])
    out: Floats = slowed + held
    return out


def _stall_s(fleet: Fleet, who: Party, trip: Trip) -> Floats:
    d, copy_s = trip.destinations, who.context * trip.kv_s_per_token
    stall = SWITCH_S + STALL_STEPS * fleet.step_s[d] + _stopped_s(who, trip)
    out: Floats = stall + np.maximum(0.0, fleet.queue_s[d] - np.where(trip.copies, copy_s, 0.0))
    return out
