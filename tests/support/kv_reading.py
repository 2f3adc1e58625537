"""A reader of KV events and a publisher of real sockets, for tests."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from shunter_api.kv_events import FLAG, parse_kv_events_config
from shunter_api.testing import make_pool
from shunter_engine.kv_publisher import KvPublisher
from shunter_scheduler.domain.cluster import Instance, Topology
from shunter_scheduler.domain.events import KvBlocksStored, KvCleared
from shunter_scheduler.service.kv_events import KvEventReader
from shunter_scheduler.service.kv_format import KvEvent
from shunter_scheduler.telemetry import Telemetry


def config_of(events: int, replay: int | None, **more: object) -> str:
    config: dict[str, object] = {"enable_kv_cache_events": True, **more}
    config["endpoint"] = f"tcp://127.0.0.1:{events}"
    if replay:
        config["replay_endpoint"] = f"tcp://127.0.0.1:{replay}"
    return json.dumps(config)


def topology_of(config: str, *addresses: str) -> Topology:
    pool = make_pool("chat", spec={"engine": {"type": "simulated", "args": [f"{FLAG}={config}"]}})
    instances = tuple(
        Instance(f"e{i}", "chat", "h100", address, "vllm") for i, address in enumerate(addresses)
    )
    return Topology(1, (pool,), (), instances)


@dataclass
class Reading:
    """What the core would be told: `held` as one plain set, with what was lost taken out."""

    telemetry: Telemetry
    held: set[int] = field(default_factory=set)
    clears: int = 0

    async def put(self, events: Sequence[KvEvent]) -> None:
        for event in events:
            if isinstance(event, KvCleared):
                self.held.clear()
                self.clears += 1
            elif isinstance(event, KvBlocksStored):
                self.held.update(event.hashes)
            else:
                self.held.difference_update(event.hashes)

    async def until(self, held: set[int]) -> None:
        async with asyncio.timeout(10):
            while self.held != held:
                await asyncio.sleep(0.005)

    def count(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def reading(
    config: str, cooldown_s: float = 30.0, heartbeat_s: float = 10.0
) -> AsyncIterator[Reading]:
    seen = Reading(Telemetry(CollectorRegistry()))
    topology = topology_of(config, "127.0.0.1:8000")
    reader = KvEventReader(
        lambda: topology,
        seen.put,
        seen.telemetry,
        cooldown_s=cooldown_s,
        heartbeat_s=heartbeat_s,
    )
    task = asyncio.create_task(reader.run())
    try:
        yield seen
        assert not task.done(), task.exception()
        assert not seen.count("shunter_scheduler_internal_errors_total", place="kv_events")
    finally:
        task.cancel()
        await asyncio.wait((task,))


@asynccontextmanager
async def publishing(config: str) -> AsyncIterator[KvPublisher]:
    publisher = KvPublisher(parse_kv_events_config(config))
    try:
        yield publisher
    finally:
        await publisher.close()


def store(publisher: KvPublisher, *numbers: int) -> None:
    """One batch for each number."""
    for number in numbers:
        publisher.stored([number.to_bytes(16, "big")], None, range(16), 16)
        publisher.step_ended()
