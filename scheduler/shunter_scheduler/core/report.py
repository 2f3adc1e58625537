"""Status values, made on demand."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from shunter_scheduler.core.pool import PoolRecord
from shunter_scheduler.core.profile_model import MIDDLING_PREFILL, MIDDLING_STEP
from shunter_scheduler.core.state import CoreState
from shunter_scheduler.costmodel.correction import Correction
from shunter_scheduler.domain.status import (
    ClusterStatus,
    CostStatus,
    InstanceStatus,
    PoolStatus,
    TenantStatus,
)


def cluster_status(state: CoreState, now: float) -> ClusterStatus:
    waiting = Counter(e.pool.name for e in state.entries.values() if e.state == "waiting")
    running = Counter(e.pool.name for e in state.entries.values() if e.state != "waiting")
    return ClusterStatus(
        pools=tuple(
            _pool_status(pool, waiting[pool.name], running[pool.name], now)
            for pool in state.pools.values()
        ),
        instances=tuple(_instances(state, now)),
        dispatched_total=state.dispatched_total,
        moved_total=state.moved_total,
        resumed_total=state.resumed_total,
        topology_version=state.topology.version,
        costs=tuple(cost for pool in state.pools.values() for cost in _costs(pool)),
        tenants=tuple(_tenants(state, now)) if state.tenants else (),
    )


def _instances(state: CoreState, now: float) -> Iterator[InstanceStatus]:
    for record in state.instances.values():
        roles, status = state.pools[record.value.pool].roles, record.status(now)
        yield status if roles is None else replace(status, role=roles.role(record))


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
        prefix_prompt_tokens=pool.hits.prompt_tokens,
        prefix_predicted_tokens=pool.hits.predicted_tokens,
        prefix_hit_tokens=pool.hits.hit_tokens,
        prefix_error_tokens=pool.hits.error_tokens,
    )


def _tenants(state: CoreState, now: float) -> Iterator[TenantStatus]:
    others = state.other_tenants
    there = Counter(
        ((others if entry.limits is None else entry.limits.use).label, entry.state == "waiting")
        for entry in state.entries.values()
    )
    left = {one.use.label: one.bucket.level(now) for one in state.tenants.values() if one.bucket}
    for use in dict.fromkeys((others, *(one.use for one in state.tenants.values()))):
        yield TenantStatus(
            name=use.label,
            running=there[use.label, False],
            waiting=there[use.label, True],
            tokens_left=None if use is others else left.get(use.label),
            requests=use.requests,
            rejected=use.rejected,
            prompt_tokens=use.prompt_tokens,
            output_tokens=use.output_tokens,
        )


def _costs(pool: PoolRecord) -> Iterator[CostStatus]:
    for profile, model in pool.models.items():
        yield _cost(pool.name, profile, "prefill", model.prefill, MIDDLING_PREFILL)
        yield _cost(pool.name, profile, "decode", model.decode, MIDDLING_STEP)


def _cost(
    pool: str,
    profile: str,
    kind: Literal["prefill", "decode"],
    correction: Correction,
    middling: Sequence[float],
) -> CostStatus:
    return CostStatus(
        pool=pool,
        profile=profile,
        kind=kind,
        observations=correction.count,
        correction=correction.factor(middling),
        error_ratio=correction.mean_error,
        standard_error_ratio=correction.standard_error(middling),
    )
