"""`shunter scheduler --kubernetes` twice on a real API server: both follow it, one serves."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from kube_cluster import Cluster, cluster, kubeconfig
from shunter_proto.v1 import scheduler_pb2 as pb
from shunter_system import System, free_port

pytestmark = pytest.mark.cluster
AFTER_KILL_S, AFTER_STOP_S, START_S = 8.0, 2.0, 40.0


@pytest.fixture(scope="session")
def config() -> str:
    return kubeconfig()


@pytest.fixture
async def kube(config: str) -> AsyncIterator[Cluster]:
    async with cluster(config) as made:
        await made.apply("chat", profiles=[{"name": "h100", "accelerator": "h100"}])
        yield made


@pytest.fixture
def schedulers(kube: Cluster, config: str, tmp_path: Path) -> Iterator[System]:
    system = System(tmp_path, (), environment={"KUBECONFIG": config})
    for name in ("one", "other"):
        system.ports[name] = free_port()
        start(system, kube, name)
    yield system
    system.stop()


def start(system: System, kube: Cluster, name: str) -> None:
    system.spawn(
        name,
        "scheduler",
        *("--kubernetes", "--namespace", kube.namespace),
        *("--lease", f"{kube.namespace}/shunter-scheduler"),
        *("--listen", system.address_of(name), "--metrics-port", "0"),
    )


def serving(system: System, name: str) -> pb.StatusReply | None:
    """None of a standby and of one that does not answer."""
    try:
        return system.status(name)
    except grpc.RpcError:
        return None


def leader(system: System, within_s: float) -> tuple[str, pb.StatusReply]:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        for name in system.processes:
            if status := serving(system, name):
                return name, status
        time.sleep(0.05)
    raise TimeoutError("\n".join(system.log(name)[-2000:] for name in system.processes))


async def test_the_standby_takes_over_and_knows_the_pools(
    kube: Cluster, schedulers: System
) -> None:
    first, status = await asyncio.to_thread(leader, schedulers, START_S)
    second = "other" if first == "one" else "one"
    assert (status.term, [pool.name for pool in status.pools]) == (1, ["chat"])
    while "lease.holder" not in schedulers.log(second):
        await asyncio.sleep(0.05)
    await asyncio.to_thread(schedulers.kill, first)
    name, status = await asyncio.to_thread(leader, schedulers, AFTER_KILL_S)
    assert (name, status.term) == (second, 2)
    assert [pool.name for pool in status.pools] == ["chat"]
    start(schedulers, kube, first)
    while schedulers.log(first).count("lease.holder") < 1:
        await asyncio.sleep(0.05)
    schedulers.processes[second].send_signal(signal.SIGTERM)
    await asyncio.to_thread(schedulers.processes.pop(second).wait, 10)
    name, status = await asyncio.to_thread(leader, schedulers, AFTER_STOP_S)
    assert (name, status.term) == (first, 3)
