"""The source against a Kubernetes API in memory: lists, watches, outages."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from shunter_runtime import kube_watch
from shunter_scheduler.domain.cluster import Topology
from shunter_scheduler.sources.files import ConfigRefused
from shunter_scheduler.sources.kubernetes import KubernetesSource
from shunter_scheduler.sources.testing import FakeKubernetes, pod_object, policy_object, pool_object


class Follow:
    """A source and the next thing that it says."""

    def __init__(self, api: FakeKubernetes) -> None:
        source = KubernetesSource(api, rng=random.Random(1), settle_s=0.01)
        self._changes = source.changes()

    async def next(self) -> Topology | ConfigRefused:
        async with asyncio.timeout(10):
            return await anext(self._changes)

    async def topology(self) -> Topology:
        found = await self.next()
        assert isinstance(found, Topology), found
        return found

    async def instances(self) -> list[str]:
        return [instance.name for instance in (await self.topology()).instances]

    async def close(self) -> None:
        await self._changes.aclose()


@pytest.fixture
def api() -> FakeKubernetes:
    api = FakeKubernetes()
    api.put(pool_object())
    api.put(pod_object("p0"))
    return api


@pytest.fixture
async def follow(api: FakeKubernetes, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Follow]:
    monkeypatch.setattr(kube_watch, "BACKOFF_S", (0.01, 0.05))
    follow = Follow(api)
    yield follow
    await follow.close()


async def test_changes_are_followed(api: FakeKubernetes, follow: Follow) -> None:
    first = await follow.topology()
    assert (first.version, [p.name for p in first.pools]) == (1, ["chat"])
    api.put(pod_object("p1"))
    second = await follow.topology()
    assert (second.version, [i.name for i in second.instances]) == (2, ["p0", "p1"])
    api.put(pod_object("p0", ready=False))
    assert await follow.instances() == ["p1"]
    api.put(policy_object())
    assert [policy.name for policy in (await follow.topology()).policies] == ["main"]
    api.delete("Pod", "p1")
    assert await follow.instances() == []
    api.delete("ModelPool", "chat")
    assert (await follow.topology()).pools == ()


async def test_an_empty_cluster_is_a_configuration() -> None:
    follow = Follow(FakeKubernetes())
    assert (await follow.topology()).pools == ()
    await follow.close()


async def test_a_burst_is_one_change(api: FakeKubernetes, follow: Follow) -> None:
    await follow.topology()
    for number in range(20):
        api.put(pod_object(f"q{number}"))
    assert len(await follow.instances()) == 21


async def test_what_is_left_out_is_told_after_the_rest(api: FakeKubernetes, follow: Follow) -> None:
    await follow.topology()
    api.put(pool_object("bad", profiles=[]))
    assert [pool.name for pool in (await follow.topology()).pools] == ["chat"]
    refused = await follow.next()
    assert isinstance(refused, ConfigRefused)
    assert "ModelPool serving/bad" in str(refused)
    api.delete("ModelPool", "bad")
    await follow.topology()  # tells that the problem is gone
    api.put(pod_object("p1"))
    assert await follow.instances() == ["p0", "p1"]


async def test_a_watch_goes_on_where_the_last_one_ended(
    api: FakeKubernetes, follow: Follow
) -> None:
    await follow.topology()
    api.end_watches()
    api.put(pod_object("p1"))
    assert await follow.instances() == ["p0", "p1"]
    assert api.lists == 3


async def test_a_version_that_the_server_forgot_is_listed_again(
    api: FakeKubernetes, follow: Follow
) -> None:
    await follow.topology()
    api.put(pod_object("p1"))
    api.delete("Pod", "p0")
    api.forget()
    assert await follow.instances() == ["p1"]
    assert api.lists > 3


async def test_a_bookmark_keeps_a_silent_watch_young(api: FakeKubernetes, follow: Follow) -> None:
    await follow.topology()
    api.bookmark()
    await asyncio.sleep(0.05)
    api.forget()
    api.put(pod_object("p1"))
    assert await follow.instances() == ["p0", "p1"]
    assert api.lists == 3


async def test_what_is_known_stays_while_the_api_is_away(
    api: FakeKubernetes, follow: Follow
) -> None:
    await follow.topology()
    api.down = True
    api.end_watches()
    api.put(pod_object("p1"))
    watches = api.watches
    while api.watches < watches + 6:
        await asyncio.sleep(0.01)
    api.down = False
    assert await follow.instances() == ["p0", "p1"]


async def test_it_waits_for_an_api_that_is_not_there_yet() -> None:
    api = FakeKubernetes(down=True)
    follow = Follow(api)
    first = asyncio.create_task(follow.topology())
    while api.lists < 6:
        await asyncio.sleep(0.01)
    assert not first.done()
    api.down = False
    assert (await first).version == 1
    await follow.close()
