"""What can be set about the core, grouped by meaning. Resources set the rest."""

from dataclasses import dataclass, field

from shunter_scheduler.domain.decisions import MovePolicyName
from shunter_scheduler.policies.ask import Weights


@dataclass(frozen=True, slots=True)
class HeadRoom:
    """When an instance takes no more work, so that requests wait in the queue instead."""

    kv_watermark: float = 0.02  # share of the KV memory that stays free
    kv_soft_limit: float = 0.9  # share from which admission to KV memory takes time
    max_requests: int = 256  # at once on one instance: the usual batch limit of engines
    max_queue_s: float = 1.0  # of prefills ahead, once there are two
    queue_share: float = 0.2  # of the pool's tightest TTFT target, if that is less: in an engine
    # nobody can be passed by those who have to go first
    for_priorities: bool = True  # a class keeps lower ones from slowing it beyond its TPOT target
    for_targets: bool = True  # predicted-cost lets wait who would cost others more than it gains


@dataclass(frozen=True, slots=True)
class Ejection:
    """An engine that fails again and again is taken out, then probed with one request."""

    failures_in_a_row: int = 3
    first_backoff_s: float = 1.0
    max_backoff_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Retries:
    """Of requests that failed on an engine which is still in service, per pool."""

    share: float = 0.1
    at_least: int = 10
    window_s: int = 10


@dataclass(frozen=True, slots=True)
class Moves:
    """When running requests move besides drains, which always do. `policy`: `drain-only`, `llumnix`
    or `predicted-gain`. Rates are per second of the core's clock."""

    policy: MovePolicyName = "drain-only"
    interval_s: float = 0.5  # between two looks at the whole
    hysteresis: float = 0.5  # a gain has to exceed (1 + this) times the cost
    settle_s: float = 10.0  # after a move or a resumption, before the request moves on
    kv_bytes_per_s: float = 3e9  # of KV blocks into or out of one instance: half of 50 Gbit/s
    llumnix_freeness: float = 48.0  # KV tokens a request, its artifact's 3 blocks of 16
    replay_share: float = 0.25  # of an instance's time for prefills of what moves there
    cooldown_s: float = 1.0  # before a move that did not happen is tried again
    timeout_s: float = 120.0  # a gateway that says nothing: the destination's room is given back


@dataclass(frozen=True, slots=True)
class CoreSettings:
    block_tokens: int = 64  # tokens per prompt block hash
    max_prefix_blocks: int = 2_000_000  # per pool: 16 MB of hashes
    max_explanations: int = 8192  # of ended requests
    ageing_step_s: float = 10.0  # of waiting let a class go before the next higher one
    ageing_share: float = 0.05  # of the service of those that waited goes so, at most
    fair_window_tokens: float = 8192.0  # of service by which tenants count as equally served
    hold_refresh_s: float = 1.0  # between two Hold decisions for one request
    lookahead: int = 16  # requests looked at behind one that fits nowhere
    default_output_tokens: int = 256  # expected before anything was seen
    alpha: float | None = None  # of workload-balanced; None: tuned for each pool while it runs
    utilisation: float = 0.8  # advised for instances, of what they carry: bursts find the rest
    count_sent: bool = True  # policies that go by engines' own numbers add what was sent since
    money_s_per_dollar: float = 100.0  # what a dollar is worth against latency
    weights: Weights = field(default_factory=Weights)
    head_room: HeadRoom = field(default_factory=HeadRoom)
    ejection: Ejection = field(default_factory=Ejection)
    retries: Retries = field(default_factory=Retries)
    moves: Moves = field(default_factory=Moves)
