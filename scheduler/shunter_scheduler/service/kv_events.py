"""Reads the KV events of all engines that publish them: one task per instance."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
        self._unread: Mapping[str, str] = {}
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
                    wanted = set(self._endpoints().items())
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

    def _endpoints(self) -> Mapping[str, KvEventsEndpoint]:
        """Says once why what is configured is not read."""
        found = endpoints_of(self._topology())
        for name, reason in found.unread.items():
            if self._unread.get(name) != reason:
                log.warning("kv_events.not_read", pool=name, reason=reason)
        self._unread = found.unread
        return found.read

    async def _follow(self, stream: KvStream, name: str) -> None:
        while True:
            try:
                await stream.run()
            except Exception:  # a task's outermost level: one odd engine must not end all streams
                self._telemetry.internal_errors.labels("kv_events").inc()
                stream.log.exception("kv_events.failed")
            await self._forget(name)
            await asyncio.sleep(self._cooldown_s)

    async def _forget(self, name: str) -> None:
        """What is not followed only grows old: dispatches alone tell of it from here on."""
        await self._put((KvCleared(name),))


def _new_context() -> "Context":
    from zmq.asyncio import Context

    return Context()


@dataclass(frozen=True, slots=True)
class KvEndpoints:
    """`read` by instance; `unread` says by pool why it publishes events that are let pass."""

    read: Mapping[str, KvEventsEndpoint]
    unread: Mapping[str, str]


def endpoints_of(topology: Topology) -> KvEndpoints:
    """Where one address would stand for several instances, which of them bound it is not known:
    none of them is read."""
    found: dict[str, tuple[str, KvEventsEndpoint]] = {}  # pool and endpoint by instance
    unread: dict[str, str] = {}
    for pool in topology.pools:
        try:
            config = kv_events_of(pool.spec.engine.args, pool.engine_type)
            if config is None:
                continue
            for one in topology.instances:
                if one.pool == pool.name:
                    host = one.address.rpartition(":")[0]
                    found[one.name] = pool.name, endpoint_of(config, host)
        except ValueError as error:
            unread[pool.name] = str(error)
    sharing = Counter(endpoint.events for _, endpoint in found.values())
    for pool_name, endpoint in found.values():
        if sharing[endpoint.events] > 1:
            unread[pool_name] = f"several instances are reached at {endpoint.events}"
    read = {name: end for name, (_, end) in found.items() if sharing[end.events] == 1}
    return KvEndpoints(read, unread)
