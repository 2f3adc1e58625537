"""Every metric of the gateway, defined once; `docs/metrics.md` has a row for each."""

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# From a prefix hit on an idle GPU to a request that waited for a cold start.
_TTFT_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 60.0)
_TPOT_S = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
_E2E_S = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_STALL_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(slots=True)
class GatewayMetrics:
    """The `model` label holds names that the catalogue knows, else `unknown`: it stays bounded."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    requests: Counter = field(init=False)
    inflight: Gauge = field(init=False)
    ttft: Histogram = field(init=False)
    tpot: Histogram = field(init=False)
    e2e: Histogram = field(init=False)
    prompt_tokens: Counter = field(init=False)
    cached_tokens: Counter = field(init=False)
    output_tokens: Counter = field(init=False)
    client_pauses: Counter = field(init=False)
    moves: Counter = field(init=False)
    move_stall: Histogram = field(init=False)
    move_bytes: Counter = field(init=False)
    retries: Counter = field(init=False)
    unmovable: Counter = field(init=False)
    tokenizer_mismatch: Gauge = field(init=False)
    waiting: Gauge = field(init=False)
    local_dispatches: Counter = field(init=False)
    scheduler_connected: Gauge = field(init=False)
    key_reloads: Counter = field(init=False)

    def __post_init__(self) -> None:
        self._define_requests()
        self._define_lifecycle()

    def _define_requests(self) -> None:
        registry = self.registry
        model = ("model",)
        self.requests = Counter(
            "shunter_gateway_requests",
            "Client requests by HTTP status; 499 where the client left.",
            ("model", "code"),
            registry=registry,
        )
        self.inflight = Gauge(
            "shunter_gateway_inflight_requests", "Requests being answered.", registry=registry
        )
        self.ttft = Histogram(
            "shunter_gateway_ttft_seconds",
            "From a request's arrival to its first token.",
            model,
            buckets=_TTFT_S,
            registry=registry,
        )
        self.tpot = Histogram(
            "shunter_gateway_tpot_seconds",
            "Mean time per output token after the first, one observation a request.",
            model,
            buckets=_TPOT_S,
            registry=registry,
        )
        self.e2e = Histogram(
            "shunter_gateway_e2e_seconds",
            "From a request's arrival to its end, successful ones.",
            model,
            buckets=_E2E_S,
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "shunter_gateway_prompt_tokens", "Prompt tokens.", model, registry=registry
        )
        self.cached_tokens = Counter(
            "shunter_gateway_cached_tokens",
            "Prompt tokens that an engine found in its prefix cache.",
            model,
            registry=registry,
        )
        self.output_tokens = Counter(
            "shunter_gateway_output_tokens", "Generated tokens.", model, registry=registry
        )
        self.client_pauses = Counter(
            "shunter_gateway_client_pauses",
            "Times an engine was not read because its client was slower.",
            registry=registry,
        )
        self.key_reloads = Counter(
            "shunter_gateway_key_reloads",
            "Reads of a changed API key file, by outcome (loaded, refused).",
            ("outcome",),
            registry=registry,
        )

    def _define_lifecycle(self) -> None:
        registry = self.registry
        self.moves = Counter(
            "shunter_gateway_moves",
            "Moves of requests, by rung and outcome (moved, aborted).",
            ("rung", "outcome"),
            registry=registry,
        )
        self.move_stall = Histogram(
            "shunter_gateway_move_stall_seconds",
            "Longest gap that a client saw in a move.",
            ("rung",),
            buckets=_STALL_S,
            registry=registry,
        )
        self.move_bytes = Counter(
            "shunter_gateway_move_bytes",
            "KV cache copied by moves, also by those that came to nothing.",
            ("rung",),
            registry=registry,
        )
        self.retries = Counter(
            "shunter_gateway_retries",
            "Engine calls started again after a failure, by its reason.",
            ("reason",),
            registry=registry,
        )
        self.unmovable = Counter(
            "shunter_unmovable_requests",
            "Requests that cannot be moved once they run, by reason.",
            ("reason",),
            registry=registry,
        )
        self.tokenizer_mismatch = Gauge(
            "shunter_gateway_tokenizer_mismatch",
            "Workers that know of an engine of the pool that tokenises otherwise: it gets text.",
            ("pool",),
            registry=registry,
        )
        self.waiting = Gauge(
            "shunter_gateway_waiting_requests",
            "Requests that wait for a placement, by what they wait for.",
            ("phase",),
            registry=registry,
        )
        self.local_dispatches = Counter(
            "shunter_gateway_local_dispatches",
            "Requests that the gateway placed by itself, without a scheduler.",
            registry=registry,
        )
        self.scheduler_connected = Gauge(
            "shunter_gateway_scheduler_connected",
            "Workers that have a session with the scheduler.",
            registry=registry,
        )
