"""The lifecycle's events as metrics."""

from shunter_gateway.telemetry import GatewayMetrics


class MetricsObserver:
    """`Observer` that counts."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics

    def retried(self, reason: str) -> None:
        self._metrics.retries.labels(reason).inc()

    def moved(self, rung: str, stall_s: float) -> None:
        self._metrics.moves.labels(rung, "moved").inc()
        self._metrics.move_stall.labels(rung).observe(stall_s)

    def move_aborted(self, rung: str, reason: str) -> None:
        self._metrics.moves.labels(rung, "aborted").inc()

    def copied(self, rung: str, size_bytes: int) -> None:
        self._metrics.move_bytes.labels(rung).inc(size_bytes)

    def unmovable(self, reason: str) -> None:
        self._metrics.unmovable.labels(reason).inc()

    def placed_without_scheduler(self) -> None:
        self._metrics.local_dispatches.inc()
