"""When a term of leading begins and ends, on a Lease API of this process."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from lease_api import LeaseApi, lease_api, write_kubeconfig
from shunter_operator.cluster import ClusterError
from shunter_operator.kubernetes import KubernetesCluster
from shunter_operator.leadership import leadership, wind_down
from shunter_operator.names import Ref
from shunter_operator.telemetry import Telemetry
from shunter_operator.values import Event
from shunter_runtime.kube_access import find_access
from shunter_runtime.kube_api import KubeApi, kube_api
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
    async with leadership(lease, telemetry, stop) as term:
        assert leading(telemetry) == 1 and not term.over.is_set() and term.holds()
        server.seize(NAME, "rival")
        await soon(term.over)
        assert leading(telemetry) == 0 and not term.holds()
    assert not stop.is_set()
    assert server.holder(NAME) == "rival"
    server.seize(NAME, "")
    async with leadership(lease, telemetry, stop) as term:
        assert leading(telemetry) == 1 and not term.over.is_set() and term.holds()
    assert not stop.is_set() and server.holder(NAME) == ""


async def test_who_is_told_to_stop_gives_the_lead_away(
    server: LeaseApi, lease: KubernetesLease, telemetry: Telemetry
) -> None:
    stop = asyncio.Event()
    async with leadership(lease, telemetry, stop) as term:
        stop.set()
        await soon(term.over)
    assert server.holder(NAME) == ""


async def test_a_standby_that_is_told_to_stop_does_not_wait_for_the_lead(
    server: LeaseApi, lease: KubernetesLease, telemetry: Telemetry
) -> None:
    stop = asyncio.Event()
    async with leadership(lease, telemetry, stop):
        server.seize(NAME, "rival")
        asyncio.get_running_loop().call_later(0.1, stop.set)
        async with asyncio.timeout(20), leadership(lease, telemetry, stop) as term:
            assert term.over.is_set()


async def test_who_works_stops_before_kopf_does() -> None:
    """kopf takes seconds to end, and by then another leads."""
    order: list[str] = []

    async def ends(name: str, after: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(after):
                await asyncio.sleep(0)
            order.append(name)

    async def told() -> None:
        await asyncio.sleep(0)

    kopf = [asyncio.create_task(told()), asyncio.create_task(ends("kopf", 100))]
    passes = [asyncio.create_task(ends("passes", 1))]
    async with asyncio.timeout(10):
        await wind_down(kopf, passes)
    assert order == ["passes", "kopf"]


async def test_what_kopf_dies_of_is_raised() -> None:
    async def breaks() -> None:
        raise LookupError("a bug")

    with pytest.raises(LookupError):
        await wind_down([asyncio.create_task(breaks())], [])


async def test_nothing_is_written_by_who_leads_no_more() -> None:
    class Api(KubeApi):
        def __init__(self) -> None:
            pass  # whatever is asked of it fails

    cluster = KubernetesCluster(Api(), "policy/v1", lambda: False)
    pod = Ref("Pod", "serving", "p")
    body = {"kind": "Pod", "apiVersion": "v1", "metadata": {"namespace": "serving", "name": "p"}}
    for write in (
        cluster.apply(body),
        cluster.delete(pod),
        cluster.merge(pod, {}),
        cluster.set_pod_condition(pod, "x", True),
        cluster.emit(body, Event("Reason", "why")),
    ):
        with pytest.raises(ClusterError, match="leads no more"):
            await write
