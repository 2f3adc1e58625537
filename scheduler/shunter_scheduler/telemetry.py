"""The scheduler's Prometheus metrics. `docs/metrics.md` lists them; a test compares the two."""

from collections import Counter as _Count
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shunter_scheduler.cost_telemetry import cost_metrics
from shunter_scheduler.domain.decisions import Assign, Cancel, Decision, Hold, Move, Reject, Suspend
from shunter_scheduler.domain.status import ClusterStatus
from shunter_scheduler.tenant_telemetry import tenant_metrics

_KINDS: dict[type, str] = {
    Assign: "assign",
    Hold: "hold",
    Reject: "reject",
    Move: "move",
    Suspend: "suspend",
    Cancel: "cancel",
}
_PREFIX = {
    "prompt": "Prompt tokens of requests that began to answer.",
    "predicted": "Tokens of them that were predicted to be cached.",
    "hit": "Tokens of them that engines reported as cached.",
    "error": "Absolute differences between the two, request by request.",
}
_DECIDE_BUCKETS_S = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1.0)


class Telemetry:
    """Every metric that is counted as it happens."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        decisions = Counter(
            "shunter_decisions", "Decisions made.", labelnames=["kind"], registry=registry
        )
        self._decisions = {kind: decisions.labels(name) for kind, name in _KINDS.items()}
        self._rejected = Counter(
            "shunter_rejected_requests",
            "Requests rejected.",
            labelnames=["reason"],
            registry=registry,
        )
        self._moves = Counter(
            "shunter_moves", "Moves ordered.", labelnames=["reason", "rung"], registry=registry
        )
        self._move_gains = Counter(
            "shunter_move_gain_seconds",
            "Predicted gain of the moves ordered, less their cost, summed over all concerned.",
            labelnames=["reason"],
            registry=registry,
        )
        self._suspended = Counter(
            "shunter_suspended_requests",
            "Running requests that gave way to a higher class.",
            registry=registry,
        )
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
        self.gateways_lost = Counter(
            "shunter_gateways_lost", "Gateways given up after their grace.", registry=registry
        )
        self.sessions_closed = Counter(
            "shunter_sessions_closed",
            "Sessions that the scheduler ended, by gRPC status.",
            labelnames=["code"],
            registry=registry,
        )
        self.unary_leases_expired = Counter(
            "shunter_unary_leases_expired",
            "Dispatched requests that nobody completed.",
            registry=registry,
        )
        self.engine_polls_failed = Counter(
            "shunter_engine_polls_failed",
            "Looks at an engine's health or metrics that failed.",
            labelnames=["reason"],
            registry=registry,
        )
        self.kv_batches = Counter(
            "shunter_kv_event_batches", "Batches of KV events applied.", registry=registry
        )
        self.kv_replays = Counter(
            "shunter_kv_event_replays",
            "Replays of KV events that engines were asked for.",
            labelnames=["outcome"],
            registry=registry,
        )
        self.kv_lost = Counter(
            "shunter_kv_events_lost",
            "Gaps that no replay closed: an instance's prefixes were forgotten.",
            registry=registry,
        )
        self.config_refused = Counter(
            "shunter_config_refused", "Configuration edits refused.", registry=registry
        )
        self.internal_errors = Counter(
            "shunter_scheduler_internal_errors",
            "Errors that should not happen; each is logged.",
            labelnames=["place"],
            registry=registry,
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


class ClusterCollector(Collector):
    """What the core knows of pools and instances, read when Prometheus asks."""

    def __init__(self, status: Callable[[], ClusterStatus]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        yield from self._pools(status)
        yield from self._instances(status)
        yield from cost_metrics(status.costs)
        yield from tenant_metrics(status.tenants)
        yield CounterMetricFamily(
            "shunter_resumed_requests",
            "Requests placed again after an engine failure.",
            value=status.resumed_total,
        )
        yield GaugeMetricFamily(
            "shunter_topology_version",
            "Version of the configuration in force.",
            value=status.topology_version,
        )

    def _pools(self, status: ClusterStatus) -> Iterable[Metric]:
        waiting = GaugeMetricFamily(
            "shunter_pool_waiting_requests", "Requests in the admission queue.", labels=["pool"]
        )
        running = GaugeMetricFamily(
            "shunter_pool_running_requests", "Requests in the ledger.", labels=["pool"]
        )
        ready = GaugeMetricFamily(
            "shunter_pool_ready_instances", "Instances that take new requests.", labels=["pool"]
        )
        ttft = GaugeMetricFamily(
            "shunter_pool_ttft_p95_seconds",
            "95th percentile of time to first token over the last minute.",
            labels=["pool"],
        )
        rate = GaugeMetricFamily(
            "shunter_pool_output_tokens_per_second",
            "Tokens generated per second over the last minute.",
            labels=["pool"],
        )
        attainment = GaugeMetricFamily(
            "shunter_pool_slo_attainment",
            "Share of requests of the last minute that met their SLO.",
            labels=["pool"],
        )
        length_error = GaugeMetricFamily(
            "shunter_pool_output_length_error_ratio",
            "Mean absolute error of predicted output lengths, over the mean length.",
            labels=["pool"],
        )
        longer = GaugeMetricFamily(
            "shunter_pool_output_longer_ratio",
            "Share of answers that got longer than the memory reserved for them at first.",
            labels=["pool"],
        )
        prefix = {
            field: CounterMetricFamily(f"shunter_prefix_{field}_tokens", text, labels=["pool"])
            for field, text in _PREFIX.items()
        }
        for pool in status.pools:
            for field, family in prefix.items():
                family.add_metric([pool.name], getattr(pool, f"prefix_{field}_tokens"))
            waiting.add_metric([pool.name], pool.waiting)
            running.add_metric([pool.name], pool.running)
            ready.add_metric([pool.name], pool.ready_instances)
            ttft.add_metric([pool.name], pool.ttft_p95_s)
            rate.add_metric([pool.name], pool.output_tokens_per_s)
            attainment.add_metric([pool.name], pool.slo_attainment)
            length_error.add_metric([pool.name], pool.output_length_error_ratio)
            longer.add_metric([pool.name], pool.output_longer_share)
        return (
            waiting,
            running,
            ready,
            ttft,
            rate,
            attainment,
            length_error,
            longer,
            *prefix.values(),
        )

    def _instances(self, status: ClusterStatus) -> Iterable[Metric]:
        names = ["pool", "instance"]
        running = GaugeMetricFamily(
            "shunter_instance_running_requests", "Requests in the ledger.", labels=names
        )
        tokens = GaugeMetricFamily(
            "shunter_instance_ledger_tokens", "KV tokens reserved by them.", labels=names
        )
        wait = GaugeMetricFamily(
            "shunter_instance_predicted_wait_seconds",
            "Predicted queueing time of a request that came now.",
            labels=names,
        )
        state = GaugeMetricFamily(
            "shunter_instance_state",
            "1 for the state that the instance is in.",
            labels=[*names, "state"],
        )
        for one in status.instances:
            labels = [one.pool, one.name]
            running.add_metric(labels, one.running)
            tokens.add_metric(labels, one.ledger_tokens)
            wait.add_metric(labels, one.predicted_wait_s)
            state.add_metric([*labels, one.state], 1)
        return running, tokens, wait, state
