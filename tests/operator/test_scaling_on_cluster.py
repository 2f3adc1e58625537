"""To zero and back, and GPUs that change hands, on a real API server; nodes are fake."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from kube_cluster import Cluster, cluster, kubeconfig

pytestmark = pytest.mark.cluster
NODE = "fake-gpu-7"


@pytest.fixture(scope="session")
def config() -> str:
    return kubeconfig()


@pytest.fixture
async def kube(config: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setenv("KUBECONFIG", config)
    async with cluster(config) as made:
        yield made


def profile(name: str, **more: Any) -> dict[str, Any]:
    given = {"name": name, "accelerator": "l4", "replicas": {"min": 0, "max": 4}}
    return {**given, "nodeSelector": {"node-type": "fake"}, **more}


async def told(kube: Cluster, reason: str) -> list[str]:
    events = (await kube.api.list(kube.path("events"))).items
    return [event["message"] for event in events if event["reason"] == reason]


async def test_to_zero_and_back_as_the_scheduler_advises(kube: Cluster) -> None:
    scaling = {"scaleToZero": {"after": "1s"}, "scaleDownAfter": "1h"}
    kube.scheduler.advice = {("chat", "h100"): 0, ("chat", "l4"): 0}
    async with kube.operator():
        await kube.apply("chat", profiles=[profile("h100"), profile("l4")], scaling=scaling)
        await kube.conditioned("chat", "AutoscalerActive", "True", "ScaledToZero")
        await kube.conditioned("chat", "Ready", "False", "ScaledToZero")
        assert await kube.deployments() == {"chat-h100": 0, "chat-l4": 0}
        kube.scheduler.advice = {("chat", "h100"): 0, ("chat", "l4"): 1}
        (name,) = await kube.all_ready("l4", 1)
        await kube.conditioned("chat", "Ready", "True", "Serving")
        await kube.serve({name: 1})
        kube.scheduler.advice = {("chat", "h100"): 0, ("chat", "l4"): 0}
        await kube.conditioned("chat", "Draining", "True", "ScaleDown")
        assert await kube.ready("l4") == [name]
        await kube.serve({name: 0})
        await kube.scaled(chat_h100=0, chat_l4=0)
        await kube.conditioned("chat", "Ready", "False", "ScaledToZero")
        kube.scheduler.advice = {}
        await kube.conditioned("chat", "AutoscalerActive", "False", "MetricMissing")
    assert len(await told(kube, "ScaledUp")) == len(await told(kube, "ScaledDown")) == 1


async def test_a_gpu_changes_hands_without_cutting_anybody_off(kube: Cluster) -> None:
    """Two replicas fill a node; a pool of a higher priority needs half of it."""
    half = profile(
        "l4",
        nodeSelector={kube.namespace: "here"},
        resources={"limits": {"nvidia.com/gpu": 4}},
    )
    scaling = {"mode": "Manual", "spillAfter": "1s"}
    kube.scheduler.pools = ("low", "gold")
    await kube.label_node(NODE, "here")
    try:
        async with kube.operator():
            low = {"profiles": [half], "scaling": {**scaling, "priority": 10}}
            await kube.apply("low", **low, replicas=2)
            first, second = await kube.all_ready("l4", 2)
            await kube.serve({first: 3, second: 1})
            gold = {"profiles": [half], "scaling": {**scaling, "priority": 200}}
            await kube.apply("gold", **gold, replicas=1)
            await kube.conditioned("low", "Degraded", "True", "Reclaimed")
            await kube.conditioned("low", "Draining", "True", "Reclaimed")
            assert await kube.ready("l4") == [first, second], "it is emptied first"
            await kube.serve({first: 3, second: 0})
            await kube.conditioned("gold", "Ready", "True", "Serving")
            await kube.conditioned("low", "Degraded", "True", "InsufficientGPU")
            serving = await kube.ready("l4")
            assert first in serving and second not in serving and len(serving) == 2
            assert len(await told(kube, "Reclaimed")) == 1
            await kube.apply("gold", **gold, replicas=0)
            await kube.conditioned("low", "Degraded", "False", "AsExpected")
            assert all(name.startswith("low-") for name in await kube.all_ready("l4", 2))
    finally:
        await kube.label_node(NODE, None)
