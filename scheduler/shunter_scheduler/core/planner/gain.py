"""What a move gains and costs, in predicted seconds, summed over all whom it concerns.

Gains, of which those at the destination may be negative:
    decode    the moved request's tokens to come, at another step time
    others    those that stay behind take shorter steps, those at the destination longer ones
    slo       seconds by which targets would be missed here and are not there, weighted
    memory    recomputation after preemptions that the source is heading for
    wait      of requests that get a place, or a turn, by it
    money     the price of the time that it takes up
Costs:
    prefill   of prompt and tokens so far at the destination, and what it holds up there (replay)
    copy      what steps on both sides lose while KV blocks are copied, and those at the destination
              by the memory that is held there meanwhile (kv)
    stall     the gap that the client sees
"""

from dataclasses import dataclass

import numpy as np

from shunter_scheduler.core.entry import Entry
from shunter_scheduler.core.outlook import left_to_generate
from shunter_scheduler.core.planner.fleet import Fleet, Floats, Indices
from shunter_scheduler.domain.decisions import Rung

# Decode steps run slower by this share while KV is copied (Llumnix, OSDI 2024, section 6.2: 1 %;
# its artifact claims 2 to 3 %).
COPY_SLOWDOWN = 0.03
# Differences are taken to last for so long: requests end and come, and even them out.
HORIZON_S = 10.0
STALL_STEPS = 2.0  # of the destination: the tail is copied, or prefilled, and one step waited for
SWITCH_S = 0.01  # to end one engine call and begin another
MOST_CHANCES = 2.0  # for a preemption: what lies further ahead is too uncertain


@dataclass(frozen=True, slots=True)
class Traveller:
    """A request that may move, in numbers."""

    context: int  # tokens, prompt included
    left: float  # output tokens to come
    ahead: float  # of these, within `HORIZON_S`
    target_s: float  # of its class, per token; inf: none
    late_s: float  # its time since the first token, less what the target allows it so far
    wait_s: float  # until its first token at the source; 0: has started
    ttft_left_s: float  # until its TTFT target is missed; inf: none
    slo_weight: float

    @property
    def tokens(self) -> float:
        return self.context + self.left

    @property
    def mean_context(self) -> float:
        return self.context + 0.5 * self.left


@dataclass(frozen=True, slots=True)
class Weighed:
    """The best of a request's moves. `terms`: gains negative, costs positive, so that their sum
    is the score of going, where that of staying is 0."""

    destination: int
    rung: Rung
    gain_s: float
    cost_s: float
    terms: tuple[tuple[str, float], ...]

    @property
    def net_s(self) -> float:
        return self.gain_s - self.cost_s


def traveller(entry: Entry, source_queue_s: float, step_s: float, now: float) -> Traveller:
    """`source_queue_s` and `step_s`: at the source."""
    slo_class, left = entry.slo_class, left_to_generate(entry)
    target_s, ttft_s = slo_class.tpot_s, slo_class.ttft_s
    late_s, first_at = 0.0, entry.trail.first_token_at
    if target_s is not None and first_at is not None:
        late_s = now - first_at - target_s * entry.output_tokens
    wait_s = 0.0 if entry.started else source_queue_s
    ttft_left_s = np.inf
    if ttft_s is not None and not entry.started:
        ttft_left_s = entry.request.arrived_at + ttft_s - now
    return Traveller(
        entry.context_tokens,
        left,
        min(left, HORIZON_S / step_s),
        np.inf if target_s is None else target_s,
        late_s,
        wait_s,
        ttft_left_s,
        entry.pool.settings.weights.slo,
    )


@dataclass(frozen=True, slots=True)
class Trip:
    """From one instance to some others, and what else speaks for it."""

    source: int
    destinations: Indices
    rung: Rung
    cached: Floats  # of the context, at each destination
    kv_s_per_token: float  # to copy
    bonus: tuple[str, float] | None = None  # a further term of the trigger


def weigh(fleet: Fleet, who: Traveller, trip: Trip) -> Weighed:
    """The destination with the most gain less cost. `trip.destinations` is not empty."""
    gains = _gains(fleet, who, trip)
    costs = _costs(fleet, who, trip)
    gain, cost = _total(gains), _total(costs)
    best = int(np.argmax(gain - cost))
    terms = [(name, -float(values[best])) for name, values in gains]
    terms += [(name, float(values[best])) for name, values in costs]
    return Weighed(
        int(trip.destinations[best]),
        trip.rung,
        float(gain[best]),
        float(cost[best]),
        tuple((name, value) for name, value in terms if value),
    )


def _total(terms: list[tuple[str, Floats]]) -> Floats:
    total = terms[0][1]
    for _, values in terms[1:]:
        total = total + values
    return total


def _gains(fleet: Fleet, who: Traveller, trip: Trip) -> list[tuple[str, Floats]]:
    s, d = trip.source, trip.destinations
    step = float(fleet.step_s[s])
    there = fleet.step_s[d] + fleet.per_sequence_s[d] + who.mean_context * fleet.per_token_s[d]
    decode = who.ahead * (step - there)
    relief, harm = _on_others(fleet, who, trip)
    gains = [("decode", decode), ("others", relief - harm)]
    slo = _slo(fleet, who, trip, there)
    if slo.any():
        gains.append(("slo", slo))
    memory = _memory(fleet, who, trip)
    if memory.any():
        gains.append(("memory", memory))
    if who.wait_s:
        prefill = fleet.prefill_s(who.context, d)
        gains.append(("wait", who.wait_s - fleet.queue_s[d] - prefill))
    money = fleet.price[s] * who.ahead * step / max(1.0, float(fleet.requests[s]))
    money = money - fleet.price[d] * who.ahead * there / (fleet.requests[d] + 1)
    if money.any():
        gains.append(("money", money))
    if trip.bonus is not None:
        gains.append((trip.bonus[0], np.full(len(d), trip.bonus[1])))
    return gains


def _on_others(fleet: Fleet, who: Traveller, trip: Trip) -> tuple[float, Floats]:
    """Seconds that those at the source win, and those at each destination lose, until the first of
    the two ends."""
    s, d = trip.source, trip.destinations
    share_s = float(fleet.per_sequence_s[s] + who.mean_context * fleet.per_token_s[s])
    left_s = min(who.ahead, float(fleet.mean_left[s]))
    relief = max(0.0, float(fleet.requests[s]) - 1) * left_s * share_s
    share_d = fleet.per_sequence_s[d] + who.mean_context * fleet.per_token_s[d]
    harm = fleet.requests[d] * np.minimum(who.ahead, fleet.mean_left[d]) * share_d
    return relief, harm


def _slo(fleet: Fleet, who: Traveller, trip: Trip, there: Floats) -> Floats:
    """Its own lateness here less there, and the lateness that it inflicts on those there."""
    s, d = trip.source, trip.destinations
    out: Floats = np.zeros(len(d))
    if who.target_s < np.inf:
        step = float(fleet.step_s[s])
        here_late = max(0.0, who.late_s + who.left * (step - who.target_s))
        out += here_late - np.maximum(0.0, who.late_s + who.left * (there - who.target_s))
    if who.ttft_left_s < np.inf:
        ttft = fleet.queue_s[d] + fleet.prefill_s(who.context, d)
        out += max(0.0, who.wait_s - who.ttft_left_s) - np.maximum(0.0, ttft - who.ttft_left_s)
    target = fleet.target_s[d]
    beyond = np.maximum(0.0, there - target) - np.maximum(0.0, fleet.step_s[d] - target)
    out -= fleet.requests[d] * np.minimum(who.ahead, fleet.mean_left[d]) * beyond
    return out * who.slo_weight


def _memory(fleet: Fleet, who: Traveller, trip: Trip) -> Floats:
    """What preemptions are likely to take at the source less what they would at the destination: a
    prompt and answer is computed again once as much memory is free. It may happen whenever a
    request ends, and another is not there yet, for as long as both last."""
    s, d = trip.source, trip.destinations
    at_source = np.array([s])
    eased = fleet.risk(at_source) - fleet.risk(at_source, -who.context)
    tightened = fleet.risk(d, who.context) - fleet.risk(d)
    here = float((eased * _preempted_s(fleet, who, at_source))[0])
    out: Floats = here - tightened * _preempted_s(fleet, who, d)
    return out


def _preempted_s(fleet: Fleet, who: Traveller, of: Indices) -> Floats:
    """Seconds that one preemption after another takes while the request is there."""
    requests = np.maximum(1.0, fleet.requests[of])
    left = np.maximum(1.0, fleet.mean_left[of])
    context = max(1.0, float(np.mean(fleet.used[of] / requests)))
    again_s = fleet.prefill_s(int(context), of)
    until_free_s = fleet.step_s[of] * left / requests
    chances = requests * np.minimum(who.ahead, left) / left
    chances = np.minimum(MOST_CHANCES, np.maximum(1.0, chances))
    seconds: Floats = chances * (again_s + until_free_s)
    return seconds


def _costs(fleet: Fleet, who: Traveller, trip: Trip) -> list[tuple[str, Floats]]:
    s, d = trip.source, trip.destinations
    stall = SWITCH_S + STALL_STEPS * fleet.step_s[d]
    if trip.rung == "kv":
        copy_s = who.context * trip.kv_s_per_token
        slowed = COPY_SLOWDOWN * copy_s * (fleet.requests[s] + fleet.requests[d])
        held = copy_s * fleet.requests[d] * who.context / np.maximum(1.0, fleet.capacity[d])
        return [("copy", slowed + held), ("stall", stall)]
    missing = np.maximum(0.0, who.context - trip.cached)
    prefill = fleet.prefill_s(who.context, d) * missing / max(1, who.context)
    if trip.rung == "restart":  # the same work is saved at the source
        saved = fleet.prefill_s(who.context, np.array([s]))[0] * max(0.0, fleet.requests[s] - 1)
        return [
            ("prefill", prefill * fleet.requests[d] - saved),
            ("stall", np.full(len(d), SWITCH_S)),
        ]
    return [("prefill", prefill * (fleet.requests[d] + 1)), ("stall", stall)]
