"""Wakes pools that have no instance as soon as requests wait for one: between two passes of such a
pool nothing in the cluster changes."""

import asyncio
from collections.abc import Callable, Iterator

from shunter_operator.cluster import Mirror, PoolRecord
from shunter_operator.names import PoolKey
from shunter_operator.scheduler_client import SchedulerPort

INTERVAL_S = 1.0


async def wake_held(
    mirror: Mirror,
    scheduler: SchedulerPort,
    wake: Callable[[PoolKey], None],
    interval_s: float = INTERVAL_S,
) -> None:
    """Until cancelled. The scheduler is asked only while some pool is at zero."""
    while True:
        await asyncio.sleep(interval_s)
        for record in list(at_zero(mirror)):
            view = await scheduler.view(record.key.name)
            if view is not None and any(advice.replicas for advice in view.advice.values()):
                wake(record.key)


def at_zero(mirror: Mirror) -> Iterator[PoolRecord]:
    """Pools that may start from zero, and by their status want no instance."""
    for record in mirror.pools():
        starts = record.pool is not None and record.pool.spec.scaling.from_zero is not None
        if starts and not (record.body.get("status") or {}).get("desiredReplicas"):
            yield record
