"""One request of a workload, and pieces of workloads."""

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from shunter_simulator.workloads.errors import WorkloadError


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A request that comes `at_s` seconds after the start.

    `prefix_blocks` names the prompt's blocks of 512 tokens: equal names are equal content. Tokens
    that no block covers are like no other request's. An empty class, tenant or model leaves the
    choice to whoever serves the workload.

    A call of a workflow names it and its stage. `stages_left` are the stages that such a workflow
    usually has after this one: a hint, as a client can give it. The workflow began at
    `workflow_at_s` and is due `workflow_deadline_s` after that.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int
    prefix_blocks: tuple[int, ...] = ()
    slo_class: str = ""
    tenant: str = ""
    model: str = ""
    workflow: str = ""
    stage: str = ""
    stages_left: tuple[str, ...] = ()
    workflow_at_s: float = 0.0
    workflow_deadline_s: float | None = None


def window(
    arrivals: Iterable[Arrival], start_s: float = 0.0, duration_s: float | None = None
) -> list[Arrival]:
    """What arrives in [start, start + duration), counted from the window's start."""
    end_s = float("inf") if duration_s is None else start_s + duration_s
    return [replace(a, at_s=a.at_s - start_s) for a in arrivals if start_s <= a.at_s < end_s]


def scale(arrivals: Iterable[Arrival], speed: float) -> list[Arrival]:
    """The same requests `speed` times as fast. Raises `WorkloadError` unless speed is positive."""
    if not speed > 0:
        raise WorkloadError(f"speed must be positive, not {speed}")
    return [replace(a, at_s=a.at_s / speed) for a in arrivals]


def prefix_bound(arrivals: Iterable[Arrival], block_tokens: int) -> float:
    """The share of prompt tokens that one endless prefix cache would save."""
    known = list(arrivals)
    total = sum(arrival.prompt_tokens for arrival in known)
    return sum(endless_cache_hits(known, block_tokens)) / total if total else 0.0


def endless_cache_hits(arrivals: Iterable[Arrival], block_tokens: int) -> list[int]:
    """Prompt tokens of each request that one endless prefix cache would have: those of its leading
    blocks of `block_tokens` that an earlier request began with as well."""
    seen: set[int] = set()
    return [_hit_tokens(arrival, seen, block_tokens) for arrival in arrivals]


def _hit_tokens(arrival: Arrival, seen: set[int], block_tokens: int) -> int:
    """Adds the prompt's blocks to `seen`."""
    hit, fresh = 0, False
    for number, block in enumerate(arrival.prefix_blocks):
        fresh = fresh or block not in seen
        seen.add(block)
        if not fresh:
            hit += min(block_tokens, arrival.prompt_tokens - number * block_tokens)
    return hit
