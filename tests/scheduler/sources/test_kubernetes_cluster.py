"""The source on a real API server; nodes are fake, so pods become Ready by themselves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from kube_cluster import Cluster, cluster, kubeconfig
from shunter_runtime.kube_api import MERGE, Conflict
from shunter_runtime.lease_election import LeaderElection
from shunter_runtime.lease_kubernetes import KubernetesLease
from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.sources.files import ConfigRefused
from shunter_scheduler.sources.kubernetes import KubernetesSource
from shunter_scheduler.sources.kubernetes_objects import LABEL_POOL, LABEL_PROFILE

pytestmark = pytest.mark.cluster
WAIT_S = 40.0
PROFILES = [{"name": "h100", "accelerator": "h100"}, {"name": "l4", "accelerator": "l4"}]


@pytest.fixture(scope="session")
def config() -> str:
    return kubeconfig()


@pytest.fixture
async def kube(config: str) -> AsyncIterator[Cluster]:
    async with cluster(config) as made:
        yield made


class Followed:
    """The newest that a source said."""

    def __init__(self, source: KubernetesSource) -> None:
        self.topology = Topology(0, (), (), ())
        self.refused = ""
        self._task = asyncio.create_task(self._run(source))

    async def _run(self, source: KubernetesSource) -> None:
        async for change in source.changes():
            if isinstance(change, ConfigRefused):
                self.refused = str(change)
            else:
                self.topology, self.refused = change, ""

    async def becomes(self, condition: Callable[[Topology], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition(self.topology):
                assert not self._task.done(), self._task.exception()
                await asyncio.sleep(0.02)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def followed(kube: Cluster) -> AsyncIterator[Followed]:
    followed = Followed(KubernetesSource(kube.api, (kube.namespace,)))
    yield followed
    await followed.close()


def pod(name: str, profile: str = "h100", **metadata: Any) -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/managed-by": "shunter",
        LABEL_POOL: "chat",
        LABEL_PROFILE: profile,
    }
    port = {"name": "http", "containerPort": 8000, "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels, **metadata},
        "spec": {
            "nodeSelector": {"node-type": "fake"},
            "containers": [{"name": "engine", "image": "engine:none", "ports": [port]}],
        },
    }


async def test_the_topology_follows_pools_pods_and_policies(
    kube: Cluster, followed: Followed
) -> None:
    await followed.becomes(lambda seen: seen.version == 1)
    await kube.apply("chat", profiles=PROFILES)
    await followed.becomes(lambda seen: [pool.name for pool in seen.pools] == ["chat"])
    pods = kube.path("pods")
    late = pod("chat-late", "l4", annotations={"fake/ready-after": "2"})
    for body in (pod("chat-0"), late, {**pod("other"), "metadata": {"name": "other"}}):
        await kube.api.create(pods, body)
    await followed.becomes(lambda seen: [one.name for one in seen.instances] == ["chat-0"])
    address = followed.topology.instances[0].address
    assert address == f"{(await kube.api.get(f'{pods}/chat-0'))['status']['podIP']}:8000"
    await followed.becomes(
        lambda seen: (
            [(i.name, i.profile) for i in seen.instances]
            == [("chat-0", "h100"), ("chat-late", "l4")]
        )
    )
    await kube.api.delete(f"{pods}/chat-0")
    await followed.becomes(lambda seen: [one.name for one in seen.instances] == ["chat-late"])
    await kube.api.create(
        f"/apis/shunter.dev/v1alpha1/namespaces/{kube.namespace}/routingpolicies",
        {
            "apiVersion": "shunter.dev/v1alpha1",
            "kind": "RoutingPolicy",
            "metadata": {"name": "main"},
            "spec": {"rules": [{"name": "all", "route": [{"pool": "absent"}]}]},
        },
    )
    await followed.becomes(lambda seen: [policy.name for policy in seen.policies] == ["main"])
    await followed.becomes(lambda seen: "there is no pool 'absent'" in followed.refused)
    await kube.api.delete(kube.path("modelpools", "chat"))
    await followed.becomes(lambda seen: not seen.pools and not seen.instances)


async def test_the_older_pool_keeps_its_name_and_an_edit_of_the_newer_helps(
    kube: Cluster, followed: Followed
) -> None:
    await kube.apply("older", profiles=PROFILES, model=_model("fast"))
    await asyncio.sleep(1.1)  # times of creation are whole seconds
    await kube.apply("a-newer", profiles=PROFILES, model=_model("fast"))
    await followed.becomes(lambda seen: "belongs to pool 'older' already" in followed.refused)
    assert [pool.name for pool in followed.topology.pools] == ["older"]
    patch = {"spec": {"model": {"aliases": ["faster"]}}}
    await kube.api.patch(kube.path("modelpools", "a-newer"), patch, MERGE)
    await followed.becomes(lambda seen: len(seen.pools) == 2 and not followed.refused)


async def test_a_lease_is_held_taken_over_and_released(kube: Cluster) -> None:
    def election(name: str) -> LeaderElection:
        return LeaderElection(KubernetesLease(kube.api, kube.namespace, "shunter-test"), name)

    async def leads(one: LeaderElection, term: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while one.term != term:
                await asyncio.sleep(0.02)

    path = f"/apis/coordination.k8s.io/v1/namespaces/{kube.namespace}/leases/shunter-test"
    first, second = election("first"), election("second")
    told: list[int | None] = []
    running = asyncio.create_task(first.run(told.append))
    await leads(first, 1)
    patch = {"metadata": {"labels": {"theirs": "stays"}}}
    await kube.api.patch(path, patch, MERGE)  # makes the holder's next renewal a conflict
    standing_by = asyncio.create_task(second.run(lambda _: None))
    while second.leader != "first":
        await asyncio.sleep(0.02)
    stale = await kube.api.get(path)
    async with asyncio.timeout(WAIT_S):
        while (await kube.api.get(path))["spec"]["renewTime"] == stale["spec"]["renewTime"]:
            await asyncio.sleep(0.1)
    with pytest.raises(Conflict):
        await kube.api.replace(path, stale)
    assert (told, second.term) == ([1], None)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await first.release()
    await leads(second, 2)
    lease = await kube.api.get(path)
    assert lease["metadata"]["labels"] == {"theirs": "stays"}
    spec = lease["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("second", 2)
    assert spec["leaseDurationSeconds"] == 6
    standing_by.cancel()
    await asyncio.gather(standing_by, return_exceptions=True)


def _model(alias: str) -> dict[str, Any]:
    return {"source": "sim://llama-3.1-8b", "aliases": [alias]}
