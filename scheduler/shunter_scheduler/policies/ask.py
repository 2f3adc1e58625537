"""What a request asks of the instances that a dispatch policy looks at."""

import math
from dataclasses import dataclass

from msgspec import Struct

from shunter_scheduler.policies.rows import InstanceRow


@dataclass(frozen=True, slots=True)
class Weights:
    """How much a second of each term counts against a second of TTFT. What others lose counts half:
    it is spread over their tokens, and part of it falls on requests that have ended by then. If it
    counts in full long prompts go to slow instances where fewer run, and their TTFT is missed."""

    decode: float = 1.0
    slowdown: float = 0.5
    # A second of prefill that a cached prefix saves, beyond itself: the conversation's next turns
    # come back to where it lies (a few of them, each longer), and nothing has to make room for a
    # second copy.
    cached: float = 4.0
    slo: float = 4.0  # a second beyond a target, to the move planner
    miss_s: float = 15.0  # seconds that keeping a request's targets is worth to dispatch


class Ask(Struct, eq=False, gc=False):
    """One request to place, in the numbers that policies use."""

    now: float
    prefill_tokens: int  # prompt and, for a replay, the tokens generated so far
    output_tokens: float  # expected, still to come
    kv_tokens: float  # to be reserved
    ttft_budget_s: float  # until the class's target is missed; inf: no target
    tpot_target_s: float  # inf: no target
    turn: int  # slot after the last one picked
    weights: Weights
    rank: int = 0  # of its class; higher goes first
    may_wait: bool = False  # it has not begun to answer
    any_cached: bool = True  # some instance may have a prefix of the prompt
    next_turns: bool = True  # of its conversation come to where it goes
    # Set for the policies that look at engines (`DispatchPolicy.uses_view`).
    high_priority: bool = False  # of a class above `standard`
    prefix_key: int = 0  # equal where prompts begin alike; 0: too short to have one
    alpha: float = 0.5  # of `workload-balanced`, as tuned for the pool

    @property
    def has_target(self) -> bool:
        """One that it may still keep."""
        if self.ttft_budget_s == math.inf:
            return self.tpot_target_s < math.inf
        return self.ttft_budget_s > 0.0

    @property
    def context_tokens(self) -> float:
        """Mean length of the sequence while it decodes."""
        return self.prefill_tokens + 0.5 * self.output_tokens


def why_excluded(row: InstanceRow, ask: Ask) -> str:
    """The reason in words; empty for an instance that could be picked."""
    if row.blocked_because:
        return row.blocked_because
    if ask.rank <= row.full_rank:
        return "no head room: prefills ahead that it cannot pass"
    if row.kv_free_tokens < ask.kv_tokens:
        return (
            f"no KV head room: {max(0, int(row.kv_free_tokens))} tokens free, "
            f"{int(ask.kv_tokens)} needed"
        )
    return ""
