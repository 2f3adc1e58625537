"""Pod templates across upgrades of the operator."""

from dataclasses import replace
from typing import Any

from operator_world import World
from shunter_operator.names import Ref
from shunter_operator.testing import pool_body
from shunter_operator.values import Termination

HUB = "hf://meta-llama/Llama-3.1-8B@abc"


async def test_a_newer_operator_restarts_no_engine_to_fetch_as_before(world: World) -> None:
    """An upgrade changes the image that fetches: hundreds of gigabytes are loaded for less."""
    model = {"source": HUB, "contextLength": 4096}
    engine = {"type": "vllm", "image": "vllm:1"}
    key = world.cluster.put(pool_body(model=model, engine=engine))
    await world.settle(key)
    world.writes()
    world.environment = replace(world.environment, image="shunter:newer")
    newer = world.operator()
    assert await newer.reconcile(key) == 0, world.writes()

    def images() -> set[str]:
        live = world.cluster.live[Ref("Deployment", "serving", "chat-h100")]
        return {c["image"] for c in live["spec"]["template"]["spec"]["initContainers"]}

    assert images() == {"shunter:test"}
    world.cluster.put(pool_body(model={**model, "contextLength": 8192}, engine=engine))
    await newer.reconcile(key)
    assert images() == {"shunter:newer"}, "what is restarted anyway gets it"


async def test_a_newer_operator_helps_pods_that_its_old_image_failed(world: World) -> None:
    world.cluster.starts_s = 1000
    key = world.cluster.put(
        pool_body(model={"source": HUB}, engine={"type": "vllm", "image": "vllm:1"})
    )
    await world.settle(key)
    (pod,) = world.cluster.engines
    world.environment = replace(world.environment, image="shunter:newer")
    newer = world.operator()
    assert await newer.reconcile(key) == 0, "it is on its way"
    failed = Termination("Error", 1, "WeightsFetchFailed: odd", 1.0)
    before = world.cluster.engines[pod]
    world.cluster.engines[pod] = replace(
        before, fetch_ended=failed, waiting_reason="CrashLoopBackOff"
    )
    await newer.reconcile(key)
    live = world.cluster.live[Ref("Deployment", "serving", "chat-h100")]
    (fetch,) = live["spec"]["template"]["spec"]["initContainers"]
    assert fetch["image"] == "shunter:newer"


async def test_another_image_to_fetch_with_is_taken_at_once(world: World) -> None:
    def body(image: str) -> dict[str, Any]:
        more = {"initContainers": [{"name": "fetch-weights", "image": image}]}
        engine = {"type": "vllm", "image": "vllm:1"}
        return pool_body(
            model={"source": HUB}, engine=engine, podTemplate={"spec": more if image else {}}
        )

    for image, used in (("mine:1", "mine:1"), ("mine:2", "mine:2"), ("", "shunter:test")):
        key = world.cluster.put(body(image))
        await world.reconciler.reconcile(key)
        live = world.cluster.live[Ref("Deployment", "serving", "chat-h100")]
        (fetch,) = live["spec"]["template"]["spec"]["initContainers"]
        assert fetch["image"] == used
