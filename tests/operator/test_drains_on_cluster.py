"""Nodes that are drained and rollouts on a full cluster: a real API server, its controllers and its
scheduler, and kubectl; nodes are fake, and a pod takes all GPUs of one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from helm_chart import find_tool
from kube_cluster import Cluster, cluster, kubeconfig
from shunter_runtime.kube_api import Unreachable

pytestmark = pytest.mark.cluster
# Each test takes of these what it needs, by a label of its own.
NODES = ("fake-gpu-8", "fake-gpu-9")
GPUS = 8
SCALING = {"mode": "Manual", "spillAfter": "1s"}
NOTICE = {"key": "aws-node-termination-handler/spot-itn", "effect": "NoSchedule"}


@pytest.fixture(scope="session")
def config() -> str:
    return kubeconfig()


@pytest.fixture
async def kube(config: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    """Its pools have its own name, so that `kubectl drain` can leave the pods of others alone."""
    monkeypatch.setenv("KUBECONFIG", config)
    async with cluster(config) as made:
        made.scheduler.pools = (made.namespace,)
        yield made


@asynccontextmanager
async def own(kube: Cluster, *nodes: str) -> AsyncIterator[None]:
    """They are uncordoned at the end."""
    for node in nodes:
        await kube.label_node(node, "here")
    try:
        yield
    finally:
        for node in nodes:
            await kube.label_node(node, None)
            await kube.patch_node(node, {"unschedulable": None, "taints": None})


async def serving(kube: Cluster, replicas: int = 1, **spec: Any) -> list[str]:
    """A pool of which each pod runs three requests."""
    gpus = {"limits": {"nvidia.com/gpu": GPUS // replicas}}
    profile = {
        "name": "a",
        "accelerator": "l4-24gb",
        "replicas": {"min": 0, "max": 4},
        "nodeSelector": {kube.namespace: "here"},
        "resources": gpus,
    }
    await kube.apply(kube.namespace, profiles=[profile], scaling=SCALING, replicas=replicas, **spec)
    names = await kube.all_ready("a", replicas)
    if not kube.scheduler.instances:
        await kube.serve(dict.fromkeys(names, 3))
    return names


async def node_of(kube: Cluster, name: str) -> str:
    return str((await kube.api.get(kube.path("pods", name)))["spec"]["nodeName"])


async def evict(kube: Cluster, name: str) -> bool:
    """Whether the API server takes the eviction."""
    body = {
        "apiVersion": "policy/v1beta1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": kube.namespace},
    }
    try:
        await kube.api.create(f"{kube.path('pods', name)}/eviction", body)
    except Unreachable as error:
        assert str(error).startswith("429"), error
        return False
    return True


@asynccontextmanager
async def drain(kube: Cluster, config: str, node: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`kubectl drain`, which cordons the node and evicts again and again."""
    kubectl = find_tool("kubectl")
    assert kubectl is not None
    process = await asyncio.create_subprocess_exec(
        kubectl, f"--kubeconfig={config}", "drain", node, "--timeout=60s", "--delete-emptydir-data",
        f"--pod-selector=shunter.dev/pool={kube.namespace}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def draining(kube: Cluster) -> set[str]:
    return set(kube.scheduler.draining)


async def strategy(kube: Cluster) -> int:
    deployment = await kube.api.get(kube.path("deployments", f"{kube.namespace}-a"))
    return int(deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"])


async def test_kubectl_drain_waits_until_the_pod_is_replaced_and_empty(
    kube: Cluster, config: str
) -> None:
    async with own(kube, *NODES), kube.operator():
        (leaving,) = await serving(kube)
        node = await node_of(kube, leaving)
        assert not await evict(kube, leaving), "nobody announced it"
        async with drain(kube, config, node) as drained:
            await kube.becomes(lambda: draining(kube), {leaving})
            await kube.conditioned(kube.namespace, "Draining", "True", "NodeCordoned")
            assert len(await kube.ready("a")) == 2, "its replacement serves"
            assert not await evict(kube, leaving), "it has requests"
            assert drained.returncode is None
            kube.scheduler.instances[leaving] = 0
            output, _ = await drained.communicate()
            assert drained.returncode == 0, output.decode()
        (name,) = await kube.all_ready("a", 1)
        assert await node_of(kube, name) != node
        await kube.scaled(**{f"{kube.namespace}-a": 1})
        await kube.conditioned(kube.namespace, "Draining", "False", "NothingLeaves")
        events = {e["reason"] for e in (await kube.api.list(kube.path("events"))).items}
        assert {"Leaving", "Draining"} <= events
        assert not {"DrainCancelled", "ScaledDown"} & events


async def test_a_notice_empties_a_pod_at_once_and_lets_it_go(kube: Cluster) -> None:
    async with own(kube, NODES[0]), kube.operator():
        (leaving,) = await serving(kube)
        await kube.patch_node(NODES[0], {"taints": [NOTICE]})
        await kube.becomes(lambda: draining(kube), {leaving})
        await kube.conditioned(kube.namespace, "Draining", "True", "SpotNotice")
        kube.scheduler.instances[leaving] = 0
        await kube.becomes(lambda: evict(kube, leaving), True)


async def test_an_uncordoned_node_has_its_pod_back(kube: Cluster) -> None:
    async with own(kube, NODES[0]), kube.operator():
        (leaving,) = await serving(kube)
        await kube.patch_node(NODES[0], {"unschedulable": True})
        await kube.scaled(**{f"{kube.namespace}-a": 2})
        await kube.patch_node(NODES[0], {"unschedulable": None})
        await kube.scaled(**{f"{kube.namespace}-a": 1})
        assert await kube.ready("a") == [leaving]
        assert not await evict(kube, leaving)


@pytest.mark.parametrize("replicas", [1, 2])
async def test_a_rollout_on_a_full_node_empties_one_pod_and_replaces_it(
    kube: Cluster, replicas: int
) -> None:
    async with own(kube, NODES[0]), kube.operator():
        before = await serving(kube, replicas)
        engine = {"type": "simulated", "env": [{"name": "REVISION", "value": "2"}]}
        await serving(kube, replicas, engine=engine)
        for count in range(1, replicas + 1):
            await kube.becomes(lambda: drained_so_far(kube), count)
            await kube.conditioned(kube.namespace, "Draining", "True", "Rollout")
            busy = {n for n in kube.scheduler.draining if kube.scheduler.instances[n]}
            assert len(busy) == 1 and busy <= set(await names(kube)), "it has requests"
            for name in kube.scheduler.draining:
                kube.scheduler.instances[name] = 0
            kept = replicas - count
            await kube.becomes(lambda: left(kube, before), kept)
            await kube.all_ready("a", replicas)
        assert not set(before) & set(await kube.ready("a"))
        await kube.becomes(lambda: strategy(kube), 1)
        await kube.conditioned(kube.namespace, "Progressing", "False", "Complete")


async def drained_so_far(kube: Cluster) -> int:
    return len(kube.scheduler.draining)


async def left(kube: Cluster, before: list[str]) -> int:
    return len(set(before) & set(await names(kube)))


async def names(kube: Cluster) -> list[str]:
    return [pod["metadata"]["name"] for pod in await kube.pods("a")]
