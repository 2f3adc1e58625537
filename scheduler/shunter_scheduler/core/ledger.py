"""The in-flight ledger: what each instance has promised, in whole numbers so that it stays exact.

A reservation is made at the pick and released exactly once, by whichever event ends it first.
"""

from dataclasses import dataclass, field

from msgspec import Struct

NS = 1_000_000_000
NO_RANK = -1  # of a prefill that no other passes


@dataclass(slots=True)
class Load:
    """Sum of the reservations on one instance. A dataclass: made once, changed always."""

    requests: int = 0
    kv_tokens: int = 0
    prefilling: int = 0
    prefill_ns: int = 0
    decode_tokens: int = 0
    high_priority: int = 0  # requests of classes above `standard`
    context_tokens: int = 0  # prompts, and what has been generated: of `kv_tokens` what is used
    # Of the prefills how many, and their ns, by rank, where the engine takes higher ones first.
    by_rank: dict[int, list[int]] = field(default_factory=dict)

    def add(self, made: "Reservation") -> None:
        self.requests += 1
        self.kv_tokens += made.kv_tokens
        self.decode_tokens += made.decode_tokens
        self.high_priority += made.high_priority
        self.context_tokens += made.context_tokens
        if made.prefilling:
            self.prefilling += 1
            self.prefill_ns += made.prefill_ns
            if made.rank != NO_RANK:
                self._rank_prefill(made.rank, 1, made.prefill_ns)

    def prefill_left(self, made: "Reservation") -> None:
        """It is done, or will not be."""
        self.prefilling -= 1
        self.prefill_ns -= made.prefill_ns
        if made.rank != NO_RANK:
            self._rank_prefill(made.rank, -1, -made.prefill_ns)

    def _rank_prefill(self, rank: int, count: int, ns: int) -> None:
        known = self.by_rank.get(rank)
        if known is None:
            self.by_rank[rank] = [count, ns]
            return
        known[0] += count
        known[1] += ns
        if not known[0]:
            del self.by_rank[rank]


class Reservation(Struct, eq=False):
    """Room for one request on one instance: KV tokens, prefill work, output tokens to come."""

    load: Load | None
    kv_tokens: int
    prefill_ns: int
    decode_tokens: int
    high_priority: bool
    context_tokens: int
    prefilling: bool = True
    rank: int = NO_RANK  # of its class, where the engine computes higher ones first

    @property
    def open(self) -> bool:
        return self.load is not None

    def started(self) -> bool:
        """The prefill is done. False where it was before, or where nothing is reserved."""
        load = self.load
        if load is None or not self.prefilling:
            return False
        load.prefill_left(self)
        self.prefilling = False
        return True

    def resize(self, kv_tokens: int, decode_tokens: int, context_tokens: int) -> None:
        load = self.load
        if load is not None:
            load.kv_tokens += kv_tokens - self.kv_tokens
            load.decode_tokens += decode_tokens - self.decode_tokens
            load.context_tokens += context_tokens - self.context_tokens
            self.kv_tokens, self.decode_tokens = kv_tokens, decode_tokens
            self.context_tokens = context_tokens

    def release(self) -> bool:
        """False where it was released before."""
        load = self.load
        if load is None:
            return False
        self.load = None
        load.requests -= 1
        load.kv_tokens -= self.kv_tokens
        load.decode_tokens -= self.decode_tokens
        load.high_priority -= self.high_priority
        load.context_tokens -= self.context_tokens
        if self.prefilling:
            load.prefill_left(self)
        return True


def reserve(
    load: Load,
    kv_tokens: int,
    prefill_s: float,
    decode_tokens: int,
    high_priority: bool = False,
    context_tokens: int = 0,
    rank: int = NO_RANK,
) -> Reservation:
    prefill_ns, prefilling = round(prefill_s * NS), True
    made = Reservation(
        load,
        kv_tokens,
        prefill_ns,
        decode_tokens,
        high_priority,
        context_tokens,
        prefilling,
        rank,
    )
    load.add(made)
    return made
