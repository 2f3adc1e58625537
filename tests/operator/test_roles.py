"""Profiles of roles on a cluster: labels that people see, a status, and who stands in for whom."""

from typing import Any

from operator_world import World
from shunter_operator.names import LABEL_ROLE, PoolKey, Ref
from shunter_operator.testing import pool_body


def profile(name: str, role: str, most: int = 1, **more: Any) -> dict[str, Any]:
    replicas = {"min": 1 if most == 1 else 0, "max": most}
    return {"name": name, "accelerator": "l4-24gb", "role": role, "replicas": replicas, **more}


APART = [profile("p", "Prefill"), profile("d", "Decode"), profile("both", "Any")]


def labels(world: World) -> dict[str, str]:
    found = {}
    for ref, live in world.cluster.live.items():
        if ref.kind == "Deployment":
            found[ref.name] = live["metadata"]["labels"].get(LABEL_ROLE, "")
    return found


def pod_labels(world: World) -> dict[str, str]:
    return {pod.profile: pod.role for pod in world.cluster.engines.values()}


def told(world: World, key: PoolKey) -> dict[str, str]:
    profiles = world.cluster.bodies[key]["status"]["profiles"]
    return {one["name"]: one["role"] for one in profiles}


async def test_deployments_pods_and_status_tell_roles(world: World) -> None:
    key = world.cluster.put(pool_body(profiles=APART))
    await world.settle(key)
    assert labels(world) == {"chat-p": "Prefill", "chat-d": "Decode", "chat-both": ""}
    assert pod_labels(world) == {"p": "Prefill", "d": "Decode", "both": ""}
    assert told(world, key) == {"p": "Prefill", "d": "Decode", "both": "Any"}
    world.writes()
    assert await world.reconciler.reconcile(key) == 0


async def test_a_new_role_restarts_nothing(world: World) -> None:
    key = world.cluster.put(pool_body(profiles=APART))
    await world.settle(key)
    before = set(world.cluster.engines)
    changed = [profile("p", "Any"), profile("d", "Decode"), profile("both", "Prefill")]
    world.cluster.put(pool_body(profiles=changed))
    await world.settle(key)
    assert set(world.cluster.engines) == before
    assert pod_labels(world) == {"p": "", "d": "Decode", "both": "Prefill"}
    assert labels(world) == {"chat-p": "", "chat-d": "Decode", "chat-both": "Prefill"}


async def test_templates_do_not_know_roles(world: World) -> None:
    key = world.cluster.put(pool_body(profiles=APART))
    await world.settle(key)
    live = world.cluster.live[Ref("Deployment", "serving", "chat-p")]
    assert LABEL_ROLE not in live["spec"]["template"]["metadata"]["labels"]


async def test_only_profiles_of_one_role_stand_in_for_each_other(world: World) -> None:
    """The prefill profile has no place: the decode one, first in line, is no help."""
    spec = [
        profile("first", "Prefill"),
        profile("d", "Decode", most=4),
        profile("second", "Prefill", most=4),
    ]
    key = world.cluster.put(pool_body(profiles=spec))
    world.cluster.places["first"] = 0
    await world.settle(key, seconds=80)
    assert world.replicas() == {"chat-first": 1, "chat-d": 0, "chat-second": 1}


async def test_manual_fills_the_minimums_of_roles_first(world: World) -> None:
    spec = [profile("p", "Prefill", most=4), profile("d", "Decode", most=4)]
    for one in spec:
        one["replicas"]["min"] = 1
    for total, expected in ((1, (1, 0)), (3, (2, 1)), (6, (4, 2))):
        body = pool_body(profiles=spec, scaling={"mode": "Manual"}, replicas=total)
        await world.settle(world.cluster.put(body), seconds=20)
        assert world.replicas() == {"chat-p": expected[0], "chat-d": expected[1]}
