"""Which engines' KV events are read, and what is said of the others."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from kv_reading import Reading, config_of, topology_of
from shunter_api.kv_events import FLAG
from shunter_api.testing import make_pool
from shunter_scheduler.domain.cluster import Instance, Topology
from shunter_scheduler.service.kv_events import KvEventReader, endpoints_of
from shunter_scheduler.telemetry import Telemetry


def test_instances_on_one_host_cannot_be_told_apart() -> None:
    config = config_of(5557, None)
    addresses = ("10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.2:8001")
    found = endpoints_of(topology_of(config, *addresses))
    assert {name: one.events for name, one in found.read.items()} == {"e0": "tcp://10.0.0.1:5557"}
    assert found.unread == {"chat": "several instances are reached at tcp://10.0.0.2:5557"}


def test_nor_can_instances_of_two_pools_on_one_host() -> None:
    args = [f"{FLAG}={config_of(5557, None)}"]
    own = [f"{FLAG}={config_of(5600, None)}"]
    pools = tuple(
        make_pool(name, spec={"engine": {"type": "simulated", "args": engine_args}})
        for name, engine_args in (("chat", args), ("code", args), ("other", own))
    )
    instances = tuple(
        Instance(f"{pool.name}-0", pool.name, "h100", f"10.0.0.1:800{i}", "vllm")
        for i, pool in enumerate(pools)
    )
    found = endpoints_of(Topology(1, pools, (), instances))
    assert set(found.read) == {"other-0"}
    assert set(found.unread) == {"chat", "code"}


@pytest.mark.parametrize("config", ["{", '{"enable_kv_cache_events": true, "endpoint": "ipc://x"}'])
def test_what_cannot_be_read_is_off(config: str) -> None:
    found = endpoints_of(topology_of(config, "10.0.0.1:8000"))
    assert not found.read
    assert FLAG in found.unread["chat"]


async def test_what_is_not_read_is_said_once_until_it_changes() -> None:
    bad, worse = topology_of("{", "10.0.0.1:8000"), topology_of("[]", "10.0.0.1:8000")
    topologies = [bad]
    asked = asyncio.Queue[None]()

    def topology() -> Topology:
        asked.put_nowait(None)
        return topologies[-1]

    seen = Reading(Telemetry(CollectorRegistry()))
    reader = KvEventReader(topology, seen.put, seen.telemetry)
    with capture_logs() as lines:
        task = asyncio.create_task(reader.run())
        for changed in (bad, worse, topology_of(""), bad):
            await asked.get()
            topologies.append(changed)
            reader.look_now()
        await asked.get()
        task.cancel()
        await asyncio.wait((task,))
    told = [line["reason"] for line in lines if line["event"] == "kv_events.not_read"]
    assert len(told) == 3
    assert told[0] == told[2] != told[1]
