"""Reads the KV events of all engines that publish them: one task per instance."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import structlog

from shunter_api.kv_events import KvEventsEndpoint, endpoint_of, kv_events_of
from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.domain.events import KvCleared
from shunter_scheduler.service.kv_stream import (
    COOLDOWN_S,
    HEARTBEAT_S,
    KvStream,
    KvStreamParts,
    Put,
)
from shunter_scheduler.telemetry import Telemetry

if TYPE_CHECKING:
    from zmq.asyncio import Context

MAX_REPLAYS = 8  # at once

log = structlog.get_logger(__name__)


class KvEventReader:
    """Follows the topology: an instance's endpoint is what its pool's `engine.args` say."""

    def __init__(
        self,
        topology: Callable[[], Topology],
        put: Put,
        telemetry: Telemetry,
        *,
        cooldown_s: float = COOLDOWN_S,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """`cooldown_s`: between two replays of one engine, or two runs of a stream that fails."""
        self._topology = topology
        self._put = put
        self._telemetry = telemetry
        self._cooldown_s = cooldown_s
        self._heartbeat_s = heartbeat_s
        self._changed = asyncio.Event()
        self._changed.set()

    def look_now(self) -> None:
        """The configuration changed."""
        self._changed.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        context: Context | None = None
        slots = asyncio.Semaphore(MAX_REPLAYS)
        parts = KvStreamParts(
            self._put, self._telemetry, slots, self._cooldown_s, self._heartbeat_s
        )
        reading: dict[tuple[str, KvEventsEndpoint], asyncio.Task[None]] = {}
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self._changed.wait()
                    self._changed.clear()
                    wanted = set(endpoints_of(self._topology()).items())
                    if wanted and context is None:
                        context = _new_context()
                    for gone in reading.keys() - wanted:
                        reading.pop(gone).cancel()
                        await self._forget(gone[0])
                    for name, endpoint in wanted - reading.keys():
                        assert context is not None
                        stream = KvStream(name, endpoint, context, parts)
                        task = tasks.create_task(self._follow(stream, name), name=f"kv-{name}")
                        reading[name, endpoint] = task
        finally:
            if context is not None:
                context.destroy(linger=0)

    async def _follow(self, stream: KvStream, name: str) -> None:
        while True:
            try:
                await stream.run()
            except Exception:  # a task's outermost level: one odd engine must not end all streams
                self._telemetry.internal_errors.labels("kv_events").inc()
                log.exception("kv_events.failed", instance=name)
            await self._forget(name)
            await asyncio.sleep(self._cooldown_s)

    async def _forget(self, name: str) -> None:
        """What is not followed only grows old: dispatches alone tell of it from here on."""
        await self._put((KvCleared(name),))


def _new_context() -> "Context":
    from zmq.asyncio import Context

    return Context()


def endpoints_of(topology: Topology) -> Mapping[str, KvEventsEndpoint]:
    """By instance. Where one host has several instances of a pool, which is whose is not known, and
    none of them is read."""
    found: dict[str, KvEventsEndpoint] = {}
    for pool in topology.pools:
        try:
            config = kv_events_of(pool.spec.engine.args)
            if config is None:
                continue
            hosts = {
                one.name: one.address.rpartition(":")[0]
                for one in topology.instances
                if one.pool == pool.name
            }
            count = Counter(hosts.values())
            own = {n: endpoint_of(config, host) for n, host in hosts.items() if count[host] == 1}
        except ValueError as error:
            log.warning("kv_events.not_read", pool=pool.name, reason=str(error))
            continue
        if len(own) < len(hosts):
            log.warning("kv_events.not_read", pool=pool.name, reason="several instances on a host")
        found |= own
    return found
