"""The operator's Prometheus metrics. `docs/metrics.md` lists them; a test compares the two."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_PASS_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class Telemetry:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.resources = Gauge(
            "shunter_operator_resources",
            "ModelPools and RoutingPolicies that are looked after.",
            registry=registry,
        )
        self.leading = Gauge(
            "shunter_operator_leading",
            "1 while this process acts, 0 as a standby.",
            registry=registry,
        )
        self.pass_seconds = Histogram(
            "shunter_operator_pass_seconds",
            "One pass over one resource: read, plan, carry out.",
            buckets=_PASS_BUCKETS_S,
            registry=registry,
        )
        self.passes = Counter(
            "shunter_operator_passes",
            "Passes over resources, by outcome (unchanged, changed, failed, gone).",
            labelnames=["outcome"],
            registry=registry,
        )
        self.actions = Counter(
            "shunter_operator_actions",
            "Actions carried out, by kind.",
            labelnames=["action"],
            registry=registry,
        )
        self.scheduler_errors = Counter(
            "shunter_operator_scheduler_errors",
            "Calls to the scheduler that failed.",
            registry=registry,
        )
        self.drains = Counter(
            "shunter_operator_drains",
            "Pods that were begun to be emptied, by reason (ScaleDown, NodeCordoned, ...).",
            labelnames=["reason"],
            registry=registry,
        )
        self.reviews = Counter(
            "shunter_operator_admission_reviews",
            "Answers of the webhooks, by outcome (allowed, warned, refused, defaulted, complete, "
            "broken).",
            labelnames=["outcome"],
            registry=registry,
        )
        self.webhook_certificate_ends = Gauge(
            "shunter_operator_webhook_certificate_end_seconds",
            "When the certificate that the webhooks serve expires, in seconds since 1970; 0: none.",
            registry=registry,
        )
