"""When a term of leading begins and ends, on a Lease API of this process."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from lease_api import LeaseApi, lease_api, write_kubeconfig
from shunter_operator.leadership import leadership
from shunter_operator.telemetry import Telemetry
from shunter_runtime.kube_access import find_access
from shunter_runtime.kube_api import kube_api
from shunter_runtime.lease_kubernetes import KubernetesLease

NAME = "shunter-operator"


@pytest.fixture
async def server() -> AsyncIterator[LeaseApi]:
    async with lease_api() as api:
        yield api


@pytest.fixture
async def lease(server: LeaseApi, tmp_path: Path) -> AsyncIterator[KubernetesLease]:
    config = write_kubeconfig(tmp_path / "config", server.url)
    async with kube_api(find_access({"KUBECONFIG": str(config)})) as api:
        yield KubernetesLease(api, "default", NAME)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(CollectorRegistry())


def leading(telemetry: Telemetry) -> float | None:
    return telemetry.registry.get_sample_value("shunter_operator_leading")


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(20):
        await event.wait()


async def test_a_lead_that_is_lost_ends_the_term_and_not_the_process(
    server: LeaseApi, lease: KubernetesLease, telemetry: Telemetry
) -> None:
    stop = asyncio.Event()
    async with leadership(lease, telemetry, stop) as over:
        assert leading(telemetry) == 1 and not over.is_set()
        server.seize(NAME, "rival")
        await soon(over)
        assert leading(telemetry) == 0
    assert not stop.is_set()
    assert server.holder(NAME) == "rival"
    server.seize(NAME, "")
    async with leadership(lease, telemetry, stop) as over:
        assert leading(telemetry) == 1 and not over.is_set()
    assert not stop.is_set() and server.holder(NAME) == ""


async def test_who_is_told_to_stop_gives_the_lead_away(
    server: LeaseApi, lease: KubernetesLease, telemetry: Telemetry
) -> None:
    stop = asyncio.Event()
    async with leadership(lease, telemetry, stop) as over:
        stop.set()
        await soon(over)
    assert server.holder(NAME) == ""


async def test_a_standby_that_is_told_to_stop_does_not_wait_for_the_lead(
    server: LeaseApi, lease: KubernetesLease, telemetry: Telemetry
) -> None:
    stop = asyncio.Event()
    async with leadership(lease, telemetry, stop):
        server.seize(NAME, "rival")
        asyncio.get_running_loop().call_later(0.1, stop.set)
        async with asyncio.timeout(20), leadership(lease, telemetry, stop) as over:
            assert over.is_set()
