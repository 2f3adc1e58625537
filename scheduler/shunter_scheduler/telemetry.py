"""The scheduler's Prometheus metrics. `docs/metrics.md` lists them; a test compares the two."""

from collections import Counter as _Count
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shunter_scheduler.domain.decisions import Assign, Cancel, Decision, Hold, Move, Reject, Suspend

_KINDS: dict[type, str] = {
    Assign: "assign",
    Hold: "hold",
    Reject: "reject",
    Move: "move",
    Suspend: "suspend",
    Cancel: "cancel",
}
_DECIDE_BUCKETS_S = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1.0)


class Telemetry:
    """Every metric that is counted as it happens."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"shunter_{name}", text, labelnames=labels, registry=registry)

        self.registry = registry
        self._count_decisions(counter)
        self.decide_seconds = Histogram(
            "shunter_decide_seconds",
            "One cycle: events applied, decisions made and queued.",
            buckets=_DECIDE_BUCKETS_S,
            registry=registry,
        )
        self.leading = Gauge(
            "shunter_scheduler_leading", "1 where this scheduler decides, 0 in a standby.",
            registry=registry,
        )  # fmt: skip
        self.gateways = Gauge("shunter_gateways", "Open sessions.", registry=registry)
        self.gateways_lost = counter("gateways_lost", "Gateways given up after their grace.")
        self.sessions_closed = counter(
            "sessions_closed", "Sessions that the scheduler ended, by gRPC status.", "code"
        )
        self.unary_leases_expired = counter(
            "unary_leases_expired", "Dispatched requests that nobody completed."
        )
        self.engine_polls_failed = counter(
            "engine_polls_failed", "Looks at an engine's health or metrics that failed.", "reason"
        )
        self.kv_batches = counter("kv_event_batches", "Batches of KV events applied.")
        self.kv_replays = counter(
            "kv_event_replays", "Replays of KV events that engines were asked for.", "outcome"
        )
        self.kv_lost = counter(
            "kv_events_lost", "Gaps that no replay closed: an instance's prefixes were forgotten."
        )
        self.config_refused = counter("config_refused", "Configuration edits refused.")
        self.internal_errors = counter(
            "scheduler_internal_errors", "Errors that should not happen; each is logged.", "place"
        )

    def _count_decisions(self, counter: Callable[..., Counter]) -> None:
        decisions = counter("decisions", "Decisions made.", "kind")
        self._decisions = {kind: decisions.labels(name) for kind, name in _KINDS.items()}
        self._rejected = counter("rejected_requests", "Requests rejected.", "reason")
        self._moves = counter("moves", "Moves ordered.", "reason", "rung")
        self._move_gains = counter(
            "move_gain_seconds",
            "Predicted gain of the moves ordered, less their cost, summed over all concerned.",
            "reason",
        )
        self._suspended = counter(
            "suspended_requests", "Running requests that gave way to a higher class."
        )

    def decided(self, decisions: Sequence[Decision]) -> None:
        for kind, count in _Count(map(type, decisions)).items():
            self._decisions[kind].inc(count)
        for decision in decisions:
            if type(decision) is Reject:
                self._rejected.labels(decision.reason).inc()
            elif type(decision) is Move:
                self._moves.labels(decision.reason, decision.rung).inc()
                self._move_gains.labels(decision.reason).inc(max(0.0, decision.gain_s))
            elif type(decision) is Suspend:
                self._suspended.inc()
