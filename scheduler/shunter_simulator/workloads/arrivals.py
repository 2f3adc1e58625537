"""One request of a workload, and pieces of workloads."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from shunter_simulator.workloads.errors import WorkloadError


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that comes `at_s` seconds after the start.

    `prefix_blocks` names the prompt's blocks of 512 tokens: equal names are equal content. Tokens
    that no block covers are like no other request's.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int
    prefix_blocks: tuple[int, ...] = ()


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
