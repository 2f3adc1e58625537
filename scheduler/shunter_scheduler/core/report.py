"""Status values, made on demand."""

from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.domain.status import ClusterStatus, PoolStatus


def cluster_status(state: CoreState, now: float) -> ClusterStatus:
    return ClusterStatus(
        pools=tuple(_pool_status(pool, now) for pool in state.pools.values()),
        instances=tuple(record.status(now) for record in state.instances.values()),
        dispatched_total=state.dispatched_total,
        moved_total=state.moved_total,
        topology_version=state.topology.version,
    )


def _pool_status(pool: PoolRecord, now: float) -> PoolStatus:
    records = list(pool.records())
    return PoolStatus(
        name=pool.name,
        waiting=len(pool.queue),
        running=sum(record.load.requests for record in records),
        ready_instances=sum(record.state(now) == "ready" for record in records),
        ttft_p95_s=pool.level.ttft_p95_s(now),
        output_tokens_per_s=pool.level.output_tokens_per_s(now),
        slo_attainment=pool.level.attainment(now),
    )
