"""Engines that are pods of a real API server: real processes here, told to it as pods that no node
runs. A deleted pod is emptied by moves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kube_cluster import Cluster, cluster, kubeconfig
from shunter_runtime.kube_api import MERGE, NotFound
from shunter_scheduler.sources.kubernetes_objects import LABEL_POOL, LABEL_PROFILE
from shunter_system import EngineSpec, System, free_port
from streams import Answer, all_in_mid_answer, client, prompts, stream, undisturbed

pytestmark = pytest.mark.cluster
STREAMS, TOKENS = 8, 1200
MODEL = {"source": "sim://llama-3.1-8b", "contextLength": 8192}
HOLD = "test.shunter.dev/hold"  # a finalizer: the pod stays terminating until it is taken off


@pytest.fixture(scope="session")
def config() -> str:
    return kubeconfig()


@pytest.fixture
async def kube(config: str) -> AsyncIterator[Cluster]:
    async with cluster(config) as made:
        yield made


async def add_pod(kube: Cluster, pool: str, name: str, port: int) -> None:
    labels = {"app.kubernetes.io/managed-by": "shunter", LABEL_POOL: pool, LABEL_PROFILE: "h100"}
    ports = [{"name": "http", "containerPort": port}]
    container = {"name": "engine", "image": "none", "ports": ports}
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "finalizers": [HOLD]},
        "spec": {"schedulerName": "nobody", "containers": [container]},
    }
    await kube.api.create(kube.path("pods"), body)
    ready = {"type": "Ready", "status": "True"}
    await kube.patch_pod_status(
        name, {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}], "conditions": [ready]}
    )


async def let_go(kube: Cluster, name: str) -> None:
    patch = {"metadata": {"finalizers": None}}
    await kube.api.patch(kube.path("pods", name), patch, MERGE)


@pytest.fixture
async def system(kube: Cluster, config: str, tmp_path: Path) -> AsyncIterator[System]:
    """Pool `chat` on the pods a and b, and pool `quick` for undisturbed answers."""
    system = System(
        tmp_path,
        (EngineSpec("a"), EngineSpec("b"), EngineSpec("quick", "quick", extra=("--speed", "50"))),
        scheduler_source=("--kubernetes", "--namespace", kube.namespace, "--lease", ""),
        environment={"KUBECONFIG": config},
    )
    for pool in ("chat", "quick"):
        profiles = [{"name": "h100", "accelerator": "h100"}]
        await kube.apply(pool, model={**MODEL, "name": pool}, profiles=profiles)
    for spec in system.engines:
        system.ports[spec.name] = free_port()
        await add_pod(kube, spec.pool, spec.name, system.ports[spec.name])
    try:
        await asyncio.to_thread(system.start)
        yield system
    finally:
        await asyncio.to_thread(system.stop)
        for spec in system.engines:
            with suppress(NotFound):
                await let_go(kube, spec.name)


async def test_a_deleted_pod_is_emptied_by_moves(kube: Cluster, system: System) -> None:
    expected = await undisturbed(system.url, prompts(STREAMS), "quick", TOKENS)
    answers = [Answer(prompt) for prompt in prompts(STREAMS)]
    async with client(system.url) as openai, asyncio.TaskGroup() as group:
        for answer in answers:
            group.create_task(stream(openai, answer, "chat", TOKENS))
        await all_in_mid_answer(answers, 3)
        before = await asyncio.to_thread(system.running)
        assert before["a"] and before["b"]
        await kube.api.delete(kube.path("pods", "a"))
        async with asyncio.timeout(20):
            while (await asyncio.to_thread(system.running))["a"]:
                await asyncio.sleep(0.05)
        status = await asyncio.to_thread(system.status)
        assert {one.name: one.state for one in status.instances}["a"] == "drained"
        assert status.moved_total >= before["a"]
        assert any(answer.finish_reason is None for answer in answers)
        await asyncio.to_thread(system.kill, "a")  # nobody misses it
        await let_go(kube, "a")
    assert [answer.text for answer in answers] == [answer.text for answer in expected]
    async with asyncio.timeout(10):
        while "a" in await asyncio.to_thread(system.running):
            await asyncio.sleep(0.05)
