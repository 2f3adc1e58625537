"""Why a request is where it is: the record behind the `Explain` call."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Candidate:
    """One instance that was looked at. `score_s` is the sum of `terms`, in the unit that the
    decision names; lowest wins."""

    instance: str
    profile: str
    score_s: float
    terms: tuple[tuple[str, float], ...]
    excluded_because: str = ""


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    kind: Literal["dispatch", "hold", "reject", "move", "suspend", "resume"]
    epoch: int
    at: float  # seconds on the core's clock
    policy: str
    score_unit: str  # "s", or what the policy compares instead of seconds
    winner: str
    runner_up: str
    candidates: tuple[Candidate, ...]  # best first, at most 8
    candidates_total: int
    excluded_total: int
    reason: str
    queued_s: float
    cached_tokens: int
    slack_s: float | None = None  # until it had to start for its deadline, as predicted
    # Predicted from the decision to the first token at the winner, and what nine in ten stay
    # below, going by how far predictions for its profile were off.
    ttft_s: float | None = None
    ttft_at_most_s: float | None = None
    moved: "Moved | None" = None  # what came of a move that was carried out


@dataclass(frozen=True, slots=True)
class Moved:
    rung: str  # kv, replay, restart
    stall_s: float  # longest gap that the client saw
    copied_bytes: int  # of the KV cache


@dataclass(frozen=True, slots=True)
class Explanation:
    request_id: str
    model: str
    pool: str
    slo_class: str
    rule: str
    state: Literal["waiting", "running", "moving", "finished", "failed", "cancelled"]
    prompt_tokens: int
    output_tokens: int
    decisions: tuple[DecisionRecord, ...]
    tenant: str = ""
    level: int = 0  # of its class among those in use; 0 is the lowest
    workflow: str = ""
    stage: str = ""
    revision: str = ""  # of the model that answers; empty: not placed, or not known
    expected_output_tokens: float = 0.0  # when it came
    cached_tokens: int | None = None  # as the engine reported; None: no first token yet
