"""`moves` of a scenario: which requests move while they run, and how."""

from typing import Annotated, Literal

from pydantic import Field

from shunter_api.base import Int, Resource
from shunter_scheduler.core.settings import Moves
from shunter_simulator.scenarios.values import Delay, Share

CORE = Moves()  # what is not said is as in production
MovePolicyName = Literal["none", "drain-only", "llumnix", "predicted-gain"]


class MoveSettings(Resource):
    """Which requests move while they run, and how."""

    policy: MovePolicyName = "predicted-gain"
    """none: nothing moves, drained requests neither; drain-only: off engines that drain; llumnix
    and predicted-gain: also between loaded and free ones."""

    transport: Literal["kv", "replay"] = "kv"
    """How what has begun moves: by copying its KV blocks, or by computing them anew elsewhere."""

    bandwidth_gb_s: Annotated[float, Field(gt=0, le=10_000)] = 3.0
    """Of an instance's link, in 10^9 bytes a second each way; copies at once share it."""

    downtime_s: Annotated[Delay, Field(alias="downtime")] = 0.02
    """What the last stage of a copy takes beside its bytes."""

    stage_overhead_s: Annotated[Delay, Field(alias="stageOverhead")] = 0.005
    """What each earlier stage of a copy takes beside its bytes."""

    last_stage_tokens: Annotated[Int, Field(ge=1, le=1_000_000)] = 32
    """The request stops at its source once so few tokens are left to copy or compute."""

    max_stages: Annotated[Int, Field(ge=1, le=16)] = 3
    """Copies or warm-ups of one move, the last included."""

    slowdown: Share = 0.01
    """Share by which steps of both engines take longer during a copy."""

    interval_s: Annotated[Delay, Field(alias="interval", gt=0)] = 0.2
    """Between two looks for moves that pay, of llumnix and predicted-gain."""

    hysteresis: Annotated[float, Field(ge=0, le=100)] = CORE.hysteresis
    """Of predicted-gain: a gain has to exceed so many times the cost more than the cost."""

    settle_s: Annotated[Delay, Field(alias="settle")] = CORE.settle_s
    """Of predicted-gain: before a request that moved moves again."""

    llumnix_freeness: Annotated[float, Field(ge=0, le=1e9)] = CORE.llumnix_freeness
    """Of llumnix: KV tokens per request below which an instance gives requests away, and above
    which it takes them."""
