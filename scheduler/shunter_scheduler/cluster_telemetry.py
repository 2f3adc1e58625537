"""Metrics of what the core knows of pools, instances, tenants and its own predictions, read when
Prometheus asks."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shunter_scheduler.domain.status import ClusterStatus


@dataclass(frozen=True, slots=True)
class Kind:
    """Of things that are alike: their names begin with `prefix`; labels, gauges and counters are
    given with the attribute that each is read from."""

    prefix: str
    labels: Mapping[str, str]
    gauges: Mapping[str, tuple[str, str]]  # attribute: name and text
    counters: Mapping[str, tuple[str, str]]

    def families(self, things: Iterable[object]) -> Iterator[Metric]:
        """A value of None is left out."""
        kept = list(things)
        for attribute, (name, text) in self.gauges.items():
            gauge = GaugeMetricFamily(f"{self.prefix}_{name}", text, labels=list(self.labels))
            yield self._filled(gauge, attribute, kept)
        for attribute, (name, text) in self.counters.items():
            counter = CounterMetricFamily(f"{self.prefix}_{name}", text, labels=list(self.labels))
            yield self._filled(counter, attribute, kept)

    def _filled(
        self,
        family: GaugeMetricFamily | CounterMetricFamily,
        attribute: str,
        things: Iterable[object],
    ) -> Metric:
        for thing in things:
            value = getattr(thing, attribute)
            if value is not None:
                family.add_metric([getattr(thing, one) for one in self.labels.values()], value)
        return family


POOLS = Kind(
    "shunter_pool",
    {"pool": "name"},
    {
        "waiting": ("waiting_requests", "Requests in the admission queue."),
        "running": ("running_requests", "Requests in the ledger."),
        "ready_instances": ("ready_instances", "Instances that take new requests."),
        "ttft_p95_s": (
            "ttft_p95_seconds",
            "95th percentile of time to first token over the last minute.",
        ),
        "output_tokens_per_s": (
            "output_tokens_per_second",
            "Tokens generated per second over the last minute.",
        ),
        "slo_attainment": (
            "slo_attainment",
            "Share of requests of the last minute that met their SLO.",
        ),
        "output_length_error_ratio": (
            "output_length_error_ratio",
            "Mean absolute error of predicted output lengths, over the mean length.",
        ),
        "output_longer_share": (
            "output_longer_ratio",
            "Share of answers that got longer than the memory reserved for them at first.",
        ),
    },
    {},
)
PREFIXES = Kind(
    "shunter_prefix",
    {"pool": "name"},
    {},
    {
        "prefix_prompt_tokens": (
            "prompt_tokens",
            "Prompt tokens of requests that began to answer, where engines told of hits.",
        ),
        "prefix_predicted_tokens": (
            "predicted_tokens",
            "Tokens of them that were predicted to be cached.",
        ),
        "prefix_hit_tokens": ("hit_tokens", "Tokens of them that engines reported as cached."),
        "prefix_error_tokens": (
            "error_tokens",
            "Absolute differences between the two, request by request.",
        ),
    },
)
INSTANCES = Kind(
    "shunter_instance",
    {"pool": "pool", "instance": "name"},
    {
        "running": ("running_requests", "Requests in the ledger."),
        "ledger_tokens": ("ledger_tokens", "KV tokens reserved by them."),
        "predicted_wait_s": (
            "predicted_wait_seconds",
            "Predicted queueing time of a request that came now.",
        ),
    },
    {},
)
COSTS = Kind(
    "shunter_cost_model",
    {"pool": "pool", "profile": "profile", "kind": "kind"},
    {
        "correction": (
            "correction_ratio",
            "Predicted time over what the data sheets gave, at a middling prompt or batch.",
        ),
        "error_ratio": ("error_ratio", "Mean of |observed - predicted| over predicted, lately."),
        "standard_error_ratio": (
            "standard_error_ratio",
            "Relative standard error of the predicted mean at a middling prompt or batch.",
        ),
    },
    {"observations": ("observations", "Observed times that corrected predictions.")},
)
TENANTS = Kind(
    "shunter_tenant",
    {"tenant": "name"},
    {
        "running": ("running_requests", "Requests in the ledger."),
        "waiting": ("waiting_requests", "Requests in admission queues."),
        "tokens_left": ("tokens_left", "Of its tokens per minute; below 0 it has used more."),
    },
    {
        "requests": ("requests", "Requests that were placed and have ended."),
        "rejected": ("rejected_requests", "Requests rejected."),
        "prompt_tokens": (
            "prompt_tokens",
            "Prompt tokens of requests that were placed and have ended.",
        ),
        "output_tokens": ("output_tokens", "Tokens generated for requests that ended."),
    },
)


class ClusterCollector(Collector):
    def __init__(self, status: Callable[[], ClusterStatus]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        yield from POOLS.families(status.pools)
        yield from PREFIXES.families(status.pools)
        yield from INSTANCES.families(status.instances)
        yield _states(status)
        yield from COSTS.families(status.costs)
        yield from TENANTS.families(status.tenants)
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


def _states(status: ClusterStatus) -> Metric:
    state = GaugeMetricFamily(
        "shunter_instance_state",
        "1 for the state that the instance is in.",
        labels=["pool", "instance", "state"],
    )
    for one in status.instances:
        state.add_metric([one.pool, one.name, one.state], 1)
    return state
