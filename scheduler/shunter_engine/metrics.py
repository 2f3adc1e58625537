"""The engine's metrics, under vLLM's names, so that dashboards and scrapers made for it work.

Counters and gauges are read from the backend at scrape time; only the histograms are fed.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shunter_engine.backend import EngineStats, FinishReason

_LABELS = ("model_name", "engine")
_ENGINE = "0"
# Seconds. A first token takes milliseconds on an idle GPU and minutes in a long queue.
_TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0),
)
_TPOT_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_LATENCY_BUCKETS = (0.1, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0)


class EngineMetrics:
    """What requests feed; register it with the stats of a backend by `BackendCollector`."""

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            metric = Histogram(name, text, _LABELS, registry=registry, buckets=buckets)
            return metric.labels(model_name, _ENGINE)

        self.time_to_first_token = histogram(
            "vllm:time_to_first_token_seconds", "Arrival to first token.", _TTFT_BUCKETS
        )
        self.time_per_output_token = histogram(
            "vllm:request_time_per_output_token_seconds",
            "Mean time per token after the first, per sequence.",
            _TPOT_BUCKETS,
        )
        self.request_latency = histogram(
            "vllm:e2e_request_latency_seconds", "Arrival to end.", _LATENCY_BUCKETS
        )
        self.internal_errors = Counter(
            "vllm:engine_internal_errors",
            "Requests that failed by a fault of the server.",
            _LABELS,
            registry=registry,
        ).labels(model_name, _ENGINE)
        success = Counter(
            "vllm:request_success",
            "Sequences that ended, by reason.",
            (*_LABELS, "finished_reason"),
            registry=registry,
        )
        self._finished = {
            reason: success.labels(model_name, _ENGINE, reason)
            for reason in ("stop", "length", "abort", "error")
        }

    def finished(self, reason: FinishReason) -> None:
        self._finished[reason].inc()


class BackendCollector(Collector):
    """Reads `stats()` whenever somebody scrapes."""

    def __init__(
        self, stats: Callable[[], EngineStats], model_name: str, cache_config: dict[str, str]
    ) -> None:
        self._stats = stats
        self._labels = (model_name, _ENGINE)
        self._cache_config = cache_config

    def describe(self) -> Iterator[Metric]:
        """Nothing: the registry need not ask a backend that still loads."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        used = stats.kv_blocks_used / stats.kv_blocks_total if stats.kv_blocks_total else 0.0
        for name, text, value in (
            ("num_requests_running", "Sequences in the batch.", stats.running),
            ("num_requests_waiting", "Sequences that wait for the batch.", stats.waiting),
            ("kv_cache_usage_perc", "Used part of the KV cache, 0 to 1.", used),
        ):
            gauge = GaugeMetricFamily(f"vllm:{name}", text, labels=_LABELS)
            gauge.add_metric(self._labels, value)
            yield gauge
        for name, text, value in (
            ("prompt_tokens", "Prompt tokens accepted.", stats.prompt_tokens_total),
            ("generation_tokens", "Tokens generated.", stats.generation_tokens_total),
            (
                "prefix_cache_queries",
                "Prompt tokens looked up in the prefix cache.",
                stats.prefix_cache_queries_total,
            ),
            (
                "prefix_cache_hits",
                "Prompt tokens found in the prefix cache.",
                stats.prefix_cache_hits_total,
            ),
            ("num_preemptions", "Sequences preempted.", stats.preemptions_total),
        ):
            counter = CounterMetricFamily(f"vllm:{name}", text, labels=_LABELS)
            counter.add_metric(self._labels, value)
            yield counter
        yield self._cache_info(stats)

    def _cache_info(self, stats: EngineStats) -> Metric:
        config = {
            **self._cache_config,
            "block_size": str(stats.block_tokens),
            "num_gpu_blocks": str(stats.kv_blocks_total),
            "kv_cache_size_tokens": str(stats.kv_blocks_total * stats.block_tokens),
            "engine": _ENGINE,
        }
        info = GaugeMetricFamily(
            "vllm:cache_config_info", "The KV cache's configuration.", labels=tuple(config)
        )
        info.add_metric(tuple(config.values()), 1)
        return info
