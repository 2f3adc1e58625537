"""Files of an engine: a ConfigMap for each content, kept while a pod may need it."""

from typing import Any

from operator_world import World
from shunter_operator.names import Ref
from shunter_operator.testing import pool_body

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def body(*files: tuple[str, str], replicas: int = 2) -> dict[str, Any]:
    profile = {"name": "h", "accelerator": "l4-24gb", "replicas": {"min": 0, "max": 4}}
    named = [{"name": name, "content": content} for name, content in files]
    return pool_body(
        profiles=[profile],
        scaling={"mode": "Manual"},
        replicas=replicas,
        engine={"type": "simulated", "files": named},
    )


def config_maps(world: World) -> dict[str, dict[str, str]]:
    return {ref.name: m["data"] for ref, m in world.cluster.live.items() if ref.kind == "ConfigMap"}


def pod_spec(world: World) -> dict[str, Any]:
    live = world.cluster.live[Ref("Deployment", "serving", "chat-h")]
    return dict(live["spec"]["template"]["spec"])


async def test_files_are_mounted_where_arguments_can_name_them(world: World) -> None:
    key = world.cluster.put(body(("chat.jinja", TEMPLATE), ("engine.yaml", "a: 1")))
    await world.settle(key)
    ((name, data),) = config_maps(world).items()
    assert data == {"chat.jinja": TEMPLATE, "engine.yaml": "a: 1"}
    spec = pod_spec(world)
    assert {"name": "files", "configMap": {"name": name}} in spec["volumes"]
    mount = {"name": "files", "mountPath": "/etc/shunter/files", "readOnly": True}
    assert mount in spec["containers"][0]["volumeMounts"]
    live = next(m for r, m in world.cluster.live.items() if r.kind == "ConfigMap")
    assert live["immutable"] is True
    assert live["metadata"]["ownerReferences"][0]["name"] == "chat"
    world.writes()
    assert await world.operator().reconcile(key) == 0


async def test_a_pool_without_files_has_no_config_map(world: World) -> None:
    key = world.cluster.put(body())
    await world.settle(key)
    assert config_maps(world) == {}
    assert "files" not in [volume["name"] for volume in pod_spec(world)["volumes"]]


async def test_old_files_stay_until_nobody_was_made_with_them(world: World) -> None:
    world.cluster.starts_s = 5.0
    key = world.cluster.put(body(("chat.jinja", "old")))
    await world.settle(key, seconds=15)
    world.cluster.put(body(("chat.jinja", "new")))
    seen: list[int] = []
    for _ in range(60):
        await world.settle(key, seconds=1)
        names = config_maps(world)
        old = [pod for pod in world.cluster.engines.values() if pod.template != _template(world)]
        assert not old or len(names) == 2, "an old pod may start its container again"
        seen.append(len(names))
    assert 2 in seen and seen[-1] == 1, "and they go in the end"
    assert list(config_maps(world).values()) == [{"chat.jinja": "new"}]


async def test_files_that_are_taken_out_go(world: World) -> None:
    key = world.cluster.put(body(("chat.jinja", "x")))
    await world.settle(key)
    world.cluster.put(body())
    await world.settle(key, seconds=60)
    assert config_maps(world) == {}


def _template(world: World) -> str:
    live = world.cluster.live[Ref("Deployment", "serving", "chat-h")]
    return str(live["spec"]["template"]["metadata"]["annotations"]["shunter.dev/template"])
