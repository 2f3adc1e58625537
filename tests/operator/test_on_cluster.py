"""The operator on a real API server with its controllers and scheduler; nodes are fake."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from kube_cluster import Cluster, cluster, kubeconfig

pytestmark = pytest.mark.cluster
FAKE = {"node-type": "fake"}


@pytest.fixture(scope="session")
def config() -> str:
    return kubeconfig()


@pytest.fixture
async def kube(config: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setenv("KUBECONFIG", config)
    async with cluster(config) as made:
        yield made


def profile(name: str, least: int = 1, most: int = 4, **more: Any) -> dict[str, Any]:
    replicas = {"min": least, "max": most}
    given = {"name": name, "accelerator": "l4-24gb", "replicas": replicas, "nodeSelector": FAKE}
    return {**given, **more}


async def actions(port: int) -> list[str]:
    """The metric's lines."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{port}/metrics") as answer,
    ):
        lines = (await answer.text()).splitlines()
    return [line for line in lines if line.startswith("shunter_operator_actions_total")]


async def test_a_pool_becomes_ready_and_then_nothing_is_written(kube: Cluster) -> None:
    async with kube.operator() as operator:
        await kube.apply("chat", profiles=[profile("h100", 2), profile("l4", 0)])
        await kube.conditioned("chat", "Ready", "True", "Serving")
        await kube.conditioned("chat", "Progressing", "False", "Complete")
        assert await kube.deployments() == {"chat-h100": 2, "chat-l4": 0}
        status = (await kube.pool("chat"))["status"]
        assert (status["readyReplicas"], status["gpuMix"]) == (2, "2xl4-24gb")
        await asyncio.sleep(1)
        before, counted = await kube.versions(), await actions(operator.port)
        await asyncio.sleep(2)  # four periods
        assert await kube.versions() == before
        assert await actions(operator.port) == counted != []


async def test_scaling_by_hand_drains_the_victim_first(kube: Cluster) -> None:
    async with kube.operator():
        manual = {"profiles": [profile("h100", 0)], "scaling": {"mode": "Manual"}}
        await kube.apply("chat", **manual, replicas=3)
        first, cheapest, last = await kube.all_ready("h100", 3)
        await kube.serve({first: 4, cheapest: 1, last: 5})
        scale = kube.path("modelpools", "chat") + "/scale"
        now = await kube.api.get(scale)
        await kube.api.replace(scale, {**now, "spec": {"replicas": 2}})
        await kube.conditioned("chat", "Draining", "True", "ScaleDown")
        await kube.becomes(lambda: _draining(kube), {cheapest})
        assert await kube.ready("h100") == [first, cheapest, last]
        kube.scheduler.instances[cheapest] = 0
        await kube.becomes(lambda: kube.ready("h100"), [first, last])
        await kube.conditioned("chat", "Draining", "False", "NothingLeaves")


async def _draining(kube: Cluster) -> set[str]:
    return set(kube.scheduler.draining)


async def test_spill_and_return(kube: Cluster) -> None:
    nowhere = {kube.namespace: "here"}
    scaling = {"spillAfter": "1s", "returnAfter": "2s"}
    preferred = profile("h100", 1, 1, nodeSelector=nowhere)
    async with kube.operator():
        await kube.apply("chat", profiles=[preferred, profile("l4", 0)], scaling=scaling)
        await kube.conditioned("chat", "SpilledOver", "True", "NodeSelectorMatchesNothing")
        await kube.conditioned("chat", "Ready", "True", "Serving")
        (stand_in,) = await kube.all_ready("l4", 1)
        await kube.serve({stand_in: 0})
        await kube.label_node("fake-gpu-0", "here")
        try:
            await kube.scaled(chat_h100=1, chat_l4=0)
        finally:
            await kube.label_node("fake-gpu-0", None)
        await kube.conditioned("chat", "SpilledOver", "False", "PreferredProfilesServe")
        await kube.conditioned("chat", "Degraded", "False", "AsExpected")
        told = [e["reason"] for e in (await kube.api.list(kube.path("events"))).items]
        assert {"SpilledOver", "Returned", "Draining"} <= set(told)


async def test_status_says_which_gpus_are_short(kube: Cluster) -> None:
    wanted = {"limits": {"nvidia.com/gpu": 9}}  # a node has 8
    async with kube.operator():
        await kube.apply("chat", profiles=[profile("h100", resources=wanted)])
        await kube.conditioned("chat", "Ready", "False", "InsufficientGPU")
        (status,) = (await kube.pool("chat"))["status"]["profiles"]
        assert status["phase"] == "Scheduling" and status["unschedulableReplicas"] == 1
        assert "nvidia.com/gpu" in status["message"]


async def test_status_says_which_taint_keeps_pods_away(kube: Cluster) -> None:
    there = profile("h100", nodeSelector={kube.namespace: "here"})
    await kube.label_node("fake-gpu-1", "here")
    try:
        async with kube.tainted("fake-gpu-1"), kube.operator():
            await kube.apply("chat", profiles=[there])
            await kube.conditioned("chat", "Ready", "False", "TaintNotTolerated")
            (status,) = (await kube.pool("chat"))["status"]["profiles"]
            assert kube.namespace in status["message"]
            exists = {"key": kube.namespace, "operator": "Exists"}
            await kube.apply("chat", profiles=[{**there, "tolerations": [exists]}])
            await kube.conditioned("chat", "Ready", "True", "Serving")
    finally:
        await kube.label_node("fake-gpu-1", None)


async def test_status_says_that_the_scheduler_knows_nothing_of_the_pool(kube: Cluster) -> None:
    kube.scheduler.pools = ("another",)
    async with kube.operator():
        await kube.apply("chat", profiles=[profile("h100")])
        await kube.conditioned("chat", "AutoscalerActive", "False", "MetricMissing")
        await kube.conditioned("chat", "SLOMet", "Unknown", "MetricMissing")
        await kube.conditioned("chat", "Ready", "True", "Serving")


async def test_status_says_that_a_quota_is_used_up(kube: Cluster) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0"}},
    }
    await kube.api.create(kube.path("resourcequotas"), quota)
    # Until the API server has counted, pods may still slip through.
    await kube.becomes(lambda: _counted(kube, "none"), {"pods": "0"})
    async with kube.operator():
        await kube.apply("chat", profiles=[profile("h100")])
        await kube.conditioned("chat", "Ready", "False", "QuotaExceeded")


async def _counted(kube: Cluster, quota: str) -> dict[str, str]:
    found = await kube.api.get(kube.path("resourcequotas", quota))
    hard: dict[str, str] = found.get("status", {}).get("hard", {})
    return hard


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (
            {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
            "ImagePullFailed",
        ),
        ({"terminated": {"reason": "OOMKilled", "exitCode": 137}}, "EngineOOM"),
        (
            {"terminated": {"reason": "Error", "exitCode": 1, "message": "boom\nbad flag"}},
            "EngineCrashLoop",
        ),
    ],
)
async def test_status_says_why_an_engine_does_not_start(
    kube: Cluster, state: dict[str, Any], reason: str
) -> None:
    """The test plays the kubelet, since the nodes are fake."""
    unready = {"metadata": {"annotations": {"fake/ready-after": "600"}}}
    async with kube.operator():
        await kube.apply("chat", profiles=[profile("h100")], podTemplate=unready)
        await kube.becomes(lambda: _running(kube), True)
        (pod,) = await kube.pods("h100")
        container = {"name": "engine", "image": "i", "imageID": "", "ready": False,
                     "restartCount": 1, "state": state}  # fmt: skip
        await kube.patch_pod_status(pod["metadata"]["name"], {"containerStatuses": [container]})
        await kube.conditioned("chat", "Degraded", "True", reason)
        await kube.conditioned("chat", "Ready", "False", reason)


async def _running(kube: Cluster) -> bool:
    return [p["status"]["phase"] for p in await kube.pods("h100")] == ["Running"]


async def test_a_removed_profile_is_drained_and_deleted(kube: Cluster) -> None:
    async with kube.operator():
        await kube.apply("chat", profiles=[profile("h100"), profile("l4")])
        await kube.conditioned("chat", "Progressing", "False", "Complete")
        (leaving,) = await kube.all_ready("l4", 1)
        await kube.serve({leaving: 2})
        await kube.apply("chat", profiles=[profile("h100")])
        await kube.becomes(lambda: _draining(kube), {leaving})
        assert await kube.deployments() == {"chat-h100": 1, "chat-l4": 1}
        kube.scheduler.instances[leaving] = 0
        await kube.scaled(chat_h100=1)


async def test_a_deleted_pool_is_drained_and_takes_everything_along(kube: Cluster) -> None:
    async with kube.operator():
        await kube.apply("chat", profiles=[profile("h100")])
        await kube.conditioned("chat", "Ready", "True", "Serving")
        (name,) = await kube.all_ready("h100", 1)
        await kube.serve({name: 1})
        await kube.api.delete(kube.path("modelpools", "chat"))
        await kube.conditioned("chat", "Ready", "False", "Deleting")
    await asyncio.sleep(0.5)
    assert (await kube.pool("chat"))["metadata"]["finalizers"] == ["shunter.dev/drain"]
    kube.scheduler.instances[name] = 0
    async with kube.operator():
        await kube.becomes(lambda: _left(kube, "modelpools"), 0)
        await kube.becomes(lambda: _left(kube, "deployments"), 0)
        await kube.becomes(lambda: _left(kube, "pods"), 0)


async def _left(kube: Cluster, plural: str) -> int:
    return len((await kube.api.list(kube.path(plural))).items)


async def test_the_younger_of_two_pools_with_one_model_name_waits(kube: Cluster) -> None:
    async with kube.operator():
        model = {"source": "sim://llama-3.1-8b", "name": "m"}
        await kube.apply("older", model=model, profiles=[profile("h100")])
        await kube.conditioned("older", "Ready", "True", "Serving")
        await asyncio.sleep(1)  # creation times are whole seconds
        await kube.apply("younger", model=model, profiles=[profile("h100")])
        await kube.conditioned("younger", "Degraded", "True", "ConflictingModel")
        assert await kube.deployments() == {"older-h100": 1}
        await kube.api.delete(kube.path("modelpools", "older"))
        await kube.conditioned("younger", "Ready", "True", "Serving")


async def test_of_two_operators_one_acts_and_the_other_takes_over(kube: Cluster) -> None:
    async with kube.operator() as second:
        async with kube.operator() as first:
            await kube.apply("chat", profiles=[profile("h100")])
            await kube.conditioned("chat", "Ready", "True", "Serving")
            assert first.watching.is_set() != second.watching.is_set()
            acting, standby = (first, second) if first.watching.is_set() else (second, first)
            acting.stop.set()
            async with asyncio.timeout(10):
                await standby.watching.wait()
        if standby is second:
            await kube.apply("chat", profiles=[profile("h100", 2)])
            await kube.scaled(chat_h100=2)
