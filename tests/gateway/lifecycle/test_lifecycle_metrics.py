"""What the lifecycle tells its observer, as metrics."""

from shunter_gateway.lifecycle_metrics import MetricsObserver
from shunter_gateway.telemetry import GatewayMetrics


def test_moves_are_counted_by_rung_with_their_gap_and_bytes() -> None:
    metrics = GatewayMetrics()
    observer = MetricsObserver(metrics)
    observer.copied("kv", 1000)
    observer.moved("kv", 0.02)
    observer.copied("kv", 500)  # of a move that came to nothing
    observer.move_aborted("kv", "refused")
    observer.moved("replay", 0.3)
    sample = metrics.registry.get_sample_value
    name = "shunter_gateway_move"
    assert sample(f"{name}_bytes_total", {"rung": "kv"}) == 1500
    assert sample(f"{name}_bytes_total", {"rung": "replay"}) is None
    assert sample(f"{name}_stall_seconds_sum", {"rung": "kv"}) == 0.02
    assert sample(f"{name}_stall_seconds_bucket", {"rung": "replay", "le": "0.5"}) == 1
    assert sample(f"{name}s_total", {"rung": "kv", "outcome": "moved"}) == 1
    assert sample(f"{name}s_total", {"rung": "kv", "outcome": "aborted"}) == 1
