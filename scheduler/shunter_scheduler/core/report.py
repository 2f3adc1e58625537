"""Status values, made on demand."""

from collections import Counter

from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.domain.status import ClusterStatus, PoolStatus


def cluster_status(state: CoreState, now: float) -> ClusterStatus:
    waiting = Counter(e.pool.name for e in state.entries.values() if e.state == "waiting")
    running = Counter(e.pool.name for e in state.entries.values() if e.state != "waiting")
    return ClusterStatus(
        pools=tuple(
            _pool_status(pool, waiting[pool.name], running[pool.name], now)
            for pool in state.pools.values()
        ),
        instances=tuple(record.status(now) for record in state.instances.values()),
        dispatched_total=state.dispatched_total,
        moved_total=state.moved_total,
        resumed_total=state.resumed_total,
        topology_version=state.topology.version,
    )


def _pool_status(pool: PoolRecord, waiting: int, running: int, now: float) -> PoolStatus:
    return PoolStatus(
        name=pool.name,
        waiting=waiting,
        running=running,
        ready_instances=sum(record.state(now) == "ready" for record in pool.records()),
        ttft_p95_s=pool.level.ttft_p95_s(now),
        output_tokens_per_s=pool.level.output_tokens_per_s(now),
        slo_attainment=pool.level.attainment(now),
        output_length_error_ratio=pool.length_errors.error_ratio,
        output_longer_share=pool.length_errors.longer_share,
    )
