"""Metrics of tenants: those that policies name, and all others together."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from shunter_scheduler.domain.status import TenantStatus

_GAUGES = {
    "running": ("running_requests", "Requests in the ledger."),
    "waiting": ("waiting_requests", "Requests in admission queues."),
    "tokens_left": ("tokens_left", "Of its tokens per minute; below 0 it has used more."),
}
_COUNTERS = {
    "requests": ("requests", "Requests that were placed and have ended."),
    "rejected": ("rejected_requests", "Requests rejected."),
    "prompt_tokens": ("prompt_tokens", "Prompt tokens of these."),
    "output_tokens": ("output_tokens", "Tokens generated for requests that ended."),
}


def tenant_metrics(tenants: Iterable[TenantStatus]) -> Iterable[Metric]:
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for field, (name, text) in _GAUGES.items():
        families[field] = GaugeMetricFamily(f"shunter_tenant_{name}", text, labels=["tenant"])
    for field, (name, text) in _COUNTERS.items():
        families[field] = CounterMetricFamily(f"shunter_tenant_{name}", text, labels=["tenant"])
    for tenant in tenants:
        for field, family in families.items():
            value = getattr(tenant, field)
            if value is not None:
                family.add_metric([tenant.name], value)
    return families.values()
