"""The instances of one pool at one moment, as columns that moves are weighed with."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.core.ledger import NS
from shunter_scheduler.core.planner.lineup import line_up
from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.profile_model import ProfileModel

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]


@dataclass(slots=True)
class Fleet:
    """One element an instance, in the order of `records`; seconds and tokens.

    `used` is what is in KV memory, `left` the output tokens to come, `free` what may still be used
    before the watermark, `room` what may still be reserved before it, `target_s` the tightest TPOT
    target there and `target_rank` the highest rank that has one.
    """

    records: Sequence[InstanceRecord]
    model_of: Indices
    requests: Floats
    used: Floats
    left: Floats
    capacity: Floats
    free: Floats
    room: Floats
    queue_s: Floats
    prefilling: Floats
    target_s: Floats
    target_rank: Floats
    preference: Floats  # of its profile; 0 is the first
    transport: Indices  # a number for each way to copy KV; -1: none
    revision: Indices  # a number for each
    open: Bools  # takes new work
    sources: Bools  # may give work away
    rates: Floats  # rows of `_rates`, a column each
    step_s: Floats  # of a token there
    mean_left: Floats  # output tokens that a mean request there has to come
    misses_per_s: Floats  # TPOT targets, for each second a token takes longer, as dispatch has it
    priced: bool
    alike: bool  # all of one profile
    targeted: bool  # somebody has a TPOT target
    _risk: Floats | None = None
    _preempted_s: Floats | None = None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def per_sequence_s(self) -> Floats:
        """Of a token's time."""
        found: Floats = self.rates[1]
        return found

    @property
    def per_token_s(self) -> Floats:
        """Of a token's time, for each token in memory."""
        found: Floats = self.rates[2]
        return found

    @property
    def price(self) -> Floats:
        """Of a second, in the seconds it is worth."""
        found: Floats = self.rates[3]
        return found

    def beyond_s(self) -> Floats | None:
        """By how much a token takes longer than the tightest target there; None: nowhere."""
        if not self.targeted:
            return None
        found: Floats = self.step_s - self.target_s
        return found if (found > 0.0).any() else None

    def doubt_s(self, source: int, of: Indices) -> Floats:
        """Standard error of the difference of the times per token of two instances; none between
        instances of one profile, which share what they err by."""
        error_s = self.rates[7] * self.step_s
        apart = np.sqrt(error_s[of] ** 2 + error_s[source] ** 2)
        found: Floats = np.where(self.model_of[of] == self.model_of[source], 0.0, apart)
        return found

    def risk(self) -> Floats:
        """Probability that memory runs out before a request ends there.

        The next of n requests with L tokens to come in the mean ends after about L / n steps, and
        each step takes n tokens: the F tokens that are free are used up before with e^(-F / L).
        """
        if self._risk is None:
            free = np.maximum(0.0, self.capacity - self.used)
            self._risk = np.exp(-free / self.mean_left) * (self.requests > 0)
        return self._risk

    def risk_with(self, of: Indices, more_tokens: Floats | float) -> Floats:
        """With so many tokens more."""
        free = np.maximum(0.0, self.capacity[of] - self.used[of] - more_tokens)
        risk: Floats = np.exp(-free / self.mean_left[of]) * (self.requests[of] > 0)
        return risk

    def preempted_s(self) -> Floats:
        """What a preemption takes there: a mean context is prefilled again, once somebody ends."""
        if self._preempted_s is None:
            requests = np.maximum(1.0, self.requests)
            again_s = _prefill_s(self.used / requests, self.rates[4:7])
            self._preempted_s = again_s + self.step_s * self.mean_left / requests
        return self._preempted_s

    def prefill_s(self, tokens: Floats, of: Indices) -> Floats:
        """Of prompts on some instances."""
        return _prefill_s(tokens, self.rates[4:7, of])

    def shift(self, source: int, destination: int, context: float, left: float) -> None:
        """One request is on its way."""
        self.add(source, -1, context, left)
        self.add(destination, 1, context, left)

    def add(self, at: int, sign: int, context: float, left: float) -> None:
        """One request comes, or goes where `sign` is -1."""
        self.requests[at] += sign
        self.used[at] += sign * context
        self.left[at] += sign * left
        self.free[at] -= sign * context
        self.room[at] -= sign * (context + left)
        self.step_s[at] += sign * (self.per_sequence_s[at] + context * self.per_token_s[at])
        self.mean_left[at] = max(1.0, self.left[at] / max(1.0, self.requests[at]))
        self._risk = self._preempted_s = None


def _prefill_s(tokens: Floats, rates: Floats) -> Floats:
    base, per_token, per_square = rates
    found: Floats = base + tokens * (per_token + tokens * per_square)
    return found


def look(pool: PoolRecord, now: float) -> Fleet:
    settings = pool.settings
    watermark = settings.head_room.kv_watermark
    places = {profile.name: at for at, profile in enumerate(pool.spec.profiles)}
    lineup = pool.lineup = line_up(pool.lineup, pool.records(), places)
    records = lineup.records
    numbers = chain.from_iterable([_numbers(record, now) for record in records])
    rows = np.fromiter(numbers, np.float64, 9 * len(records)).reshape(-1, 9).T.copy()
    requests, used, left, capacity, reserved, queue_s, prefilling, target_s, target_rank = rows
    rates = np.array([_rates(model) for model in lineup.models])
    columns = rates[lineup.model_of].T.copy()
    return Fleet(
        records,
        lineup.model_of,
        requests,
        used,
        left,
        capacity,
        capacity * (1 - watermark) - used,
        capacity * (1 - watermark) - reserved,
        queue_s,
        prefilling,
        target_s,
        target_rank,
        lineup.preference,
        lineup.transport,
        lineup.revision,
        np.array([not r.blocked_because(now, settings) for r in records]),
        np.array([r.healthy and r.drain is None and bool(r.requests) for r in records]),
        columns,
        columns[0] + requests * columns[1] + used * columns[2],
        np.maximum(1.0, left / np.maximum(1.0, requests)),
        pool.columns.misses_per_s[lineup.slots],
        bool(columns[3].any()),
        len(lineup.models) < 2,
        any(r.tpot_targets for r in records),
    )


def _rates(model: ProfileModel) -> tuple[float, ...]:
    """Of a decode step (once, per sequence, per token in memory); of a second's price; of a prefill
    (once, per token, per token squared); and what times per token err by."""
    rates = model.rates
    return (
        model.step_base_s,
        rates.step_s_per_sequence,
        rates.step_s_per_context_token,
        rates.price_s_per_s,
        *rates.prefill,
        model.decode.error,
    )


def _numbers(record: InstanceRecord, now: float) -> tuple[float, ...]:
    load, (foreign_requests, foreign_tokens) = record.load, record.foreign
    targets = record.tpot_targets
    return (
        load.requests + foreign_requests,
        load.context_tokens + foreign_tokens,
        load.decode_tokens,
        record.kv_capacity_tokens,
        load.kv_tokens + foreign_tokens,
        max(record.queued_until - now, load.prefill_ns / NS) if load.prefilling else 0.0,
        load.prefilling,
        min(target for _, target in targets) if targets else np.inf,
        max(rank for rank, _ in targets) if targets else -1.0,
    )
