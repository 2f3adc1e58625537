"""`docs/metrics.md` lists every metric of every process, with its type and labels, and no other."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from shunter_engine.backend import EngineStats
from shunter_engine.metrics import BackendCollector, EngineMetrics
from shunter_engine.moves.layout import KvLayout
from shunter_engine.moves.moves import MovesCollector
from shunter_engine.moves.slots import Slots
from shunter_gateway.telemetry import GatewayMetrics
from shunter_operator.telemetry import Telemetry as OperatorTelemetry
from shunter_scheduler.cluster_telemetry import ClusterCollector
from shunter_scheduler.domain.status import (
    ClusterStatus,
    CostStatus,
    InstanceStatus,
    PoolStatus,
    TenantStatus,
)
from shunter_scheduler.telemetry import Telemetry

DOC = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `([\w:]+)` \| (\w+) \|([^|]*)\| [^|]+ \|$")
Row = tuple[str, str, frozenset[str]]

STATUS = ClusterStatus(
    pools=(PoolStatus("chat", 0, 0, 1, 0.1, 0.0, 1.0),),
    instances=(InstanceStatus("i", "chat", "h", "a:1", "ready", 0, 0, 1, 0.0, 0, 0, 0.0),),
    dispatched_total=0,
    moved_total=0,
    resumed_total=0,
    topology_version=1,
    costs=(CostStatus("chat", "h", "prefill", 9, 1.0, 0.1, 0.05),),
    tenants=(TenantStatus("acme", tokens_left=1.0),),
)


def table(process: str) -> set[Row]:
    """The rows of one process's section."""
    section = DOC.read_text().split(f"\n## {process}\n")[1].split("\n## ")[0]
    rows = {
        (m[1], m[2], frozenset(re.findall(r"`(\w+)`", m[3])))
        for line in section.splitlines()
        if (m := ROW.match(line))
    }
    assert len(rows) > 3
    return rows


def defined(registry: CollectorRegistry) -> set[Row]:
    return {row for collector in collectors(registry) for row in rows_of(collector)}


def collectors(registry: CollectorRegistry) -> Iterable[object]:
    return list(registry._collector_to_names)


def rows_of(collector: object) -> Iterable[Row]:
    """A metric knows its labels; a collector's families show them in their samples."""
    if isinstance(collector, MetricWrapperBase):
        (family,) = collector.describe()
        yield full_name(family.name, family.type), family.type, frozenset(collector._labelnames)
        return
    for family in collector.collect():  # type: ignore[attr-defined]
        labels = frozenset().union(*(sample.labels for sample in family.samples))
        yield full_name(family.name, family.type), family.type, labels


def full_name(name: str, kind: str) -> str:
    """As Prometheus shows it."""
    return f"{name}_total" if kind == "counter" else name


def scheduler() -> CollectorRegistry:
    registry = CollectorRegistry()
    Telemetry(registry)
    registry.register(ClusterCollector(lambda: STATUS))
    return registry


def gateway() -> CollectorRegistry:
    return GatewayMetrics().registry


def engine() -> CollectorRegistry:
    registry = CollectorRegistry()
    EngineMetrics(registry, "m")
    stats = EngineStats(0, 0, 1, 0, 16, 0, 0, 0, 0, 0)
    registry.register(BackendCollector(lambda: stats, "m", {}))
    layout = KvLayout("w", "t", "float32", 16, 1, 1, 1)
    registry.register(MovesCollector(layout, 1, Slots(1)))
    return registry


def operator() -> CollectorRegistry:
    return OperatorTelemetry(CollectorRegistry()).registry


@pytest.mark.parametrize(
    ("section", "registry"),
    [
        ("scheduler", scheduler()),
        ("gateway", gateway()),
        ("operator", operator()),
        ("engine", engine()),
    ],
    ids=["scheduler", "gateway", "operator", "engine"],
)
def test_the_table_is_the_code(section: str, registry: CollectorRegistry) -> None:
    documented, real = table(section), defined(registry)
    assert documented - real == set(), "documented only"
    assert real - documented == set(), "not documented"


def test_every_metric_of_the_control_plane_has_its_prefix() -> None:
    for name, _, _ in defined(scheduler()) | defined(gateway()) | defined(operator()):
        assert name.startswith("shunter_")
