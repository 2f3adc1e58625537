"""The instances of one pool at one moment, as columns that moves are weighed with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shunter_scheduler.core.instance import InstanceRecord
from shunter_scheduler.core.ledger import NS
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
    models: Sequence[ProfileModel]
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
    base_s: Floats
    per_sequence_s: Floats
    per_token_s: Floats
    step_s: Floats  # of a decode step there
    price: Floats  # of a second, in the seconds it is worth
    copies_everywhere: bool  # KV, between any two
    _prefills: tuple[int, Floats] = (-1, np.empty(0))

    def __len__(self) -> int:
        return len(self.records)

    def risk(self, of: Indices, more_tokens: float = 0.0) -> Floats:
        """Probability that memory runs out before a request ends there, with so many tokens more.

        The next of n requests with L tokens to come in the mean ends after about L / n steps, and
        each step takes n tokens: the F tokens that are free are used up before with e^(-F / L).
        """
        requests, left = self.requests[of], self.left[of]
        free = np.maximum(0.0, self.capacity[of] - self.used[of] - more_tokens)
        mean_left = np.maximum(1.0, left / np.maximum(1.0, requests))
        risk: Floats = np.where(requests > 0, np.exp(-free / mean_left), 0.0)
        return risk

    @property
    def mean_left(self) -> Floats:
        """Output tokens that a mean request there has to come."""
        return self.left / np.maximum(self.requests, 1.0)

    def prefill_s(self, tokens: int, of: Indices) -> Floats:
        """Of a prompt on some instances."""
        if self._prefills[0] != tokens:  # the same is asked for again and again
            self._prefills = tokens, np.array([model.prefill_s(tokens) for model in self.models])
        found: Floats = self._prefills[1][self.model_of[of]]
        return found

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


def look(pool: PoolRecord, now: float) -> Fleet:
    settings = pool.settings
    watermark = settings.head_room.kv_watermark
    records = list(pool.records())
    models = list(dict.fromkeys(record.model for record in records))
    number = {id(model): at for at, model in enumerate(models)}
    places = {profile.name: at for at, profile in enumerate(pool.spec.profiles)}
    rows = np.array([_numbers(r, now) for r in records], dtype=np.float64).reshape(-1, 9).T.copy()
    requests, used, left, capacity, reserved, queue_s, prefilling, target_s, target_rank = rows
    model_of = np.array([number[id(r.model)] for r in records], dtype=np.intp)
    rates = [
        (
            m.step_base_s,
            m.rates.step_s_per_sequence,
            m.rates.step_s_per_context_token,
            m.rates.price_s_per_s,
        )
        for m in models
    ]
    base_s, per_sequence_s, per_token_s, price = np.array(rates)[model_of].T.copy()
    transport = _numbered([r.kv_transport for r in records])
    return Fleet(
        records,
        models,
        model_of,
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
        np.array([float(places.get(r.value.profile, 0)) for r in records]),
        transport,
        _numbered([r.value.revision for r in records]),
        np.array([not r.blocked_because(now, settings) for r in records]),
        np.array([r.healthy and r.drain is None and bool(r.requests) for r in records]),
        base_s,
        per_sequence_s,
        per_token_s,
        base_s + requests * per_sequence_s + used * per_token_s,
        price,
        bool(len(transport)) and 0 <= transport.min() == transport.max(),
    )


def _numbered(names: Sequence[str]) -> Indices:
    number = {name: at for at, name in enumerate(dict.fromkeys(names))} | {"": -1}
    return np.array([number[name] for name in names], dtype=np.intp)


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
