"""The cell as a replica follows it."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shunter_operator.admission.cell import CellWatch
from shunter_operator.admission.review import Object
from shunter_operator.admission.testing import FakeApi
from shunter_operator.testing import pool_body
from shunter_runtime.kube_api import Unreachable

FOLDER = "/apis/shunter.dev/v1alpha1/namespaces"


def put_pool(api: FakeApi, name: str, namespace: str = "serving", **metadata: Any) -> None:
    body = pool_body(name)
    body["metadata"] |= {"namespace": namespace, **metadata}
    api.put(f"{FOLDER}/{namespace}/modelpools/{name}", body)


def put_policy(api: FakeApi, name: str) -> None:
    metadata = {"name": name, "namespace": "serving", "uid": name, "generation": 1}
    policy: Object = {
        "apiVersion": "shunter.dev/v1alpha1",
        "kind": "RoutingPolicy",
        "metadata": metadata,
        "spec": {},
    }
    api.put(f"{FOLDER}/serving/routingpolicies/{name}", policy)


@asynccontextmanager
async def watching(api: FakeApi, *namespaces: str) -> AsyncIterator[CellWatch]:
    watch = CellWatch(api, namespaces, random.Random(1))
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def keys(watch: CellWatch) -> set[str] | None:
    cell = watch.cell
    if cell is None:
        return None
    return {p.metadata.key for p in cell.pools} | {p.metadata.key for p in cell.policies}


async def test_what_comes_and_goes_is_followed() -> None:
    api = FakeApi()
    put_pool(api, "chat")
    put_policy(api, "main")
    async with watching(api) as watch:
        assert keys(watch) is None
        await until(lambda: keys(watch) == {"serving/chat", "serving/main"})
        put_pool(api, "code", "other")
        await until(lambda: keys(watch) == {"serving/chat", "serving/main", "other/code"})
        api.delete(f"{FOLDER}/serving/modelpools/chat")
        await until(lambda: keys(watch) == {"serving/main", "other/code"})


async def test_only_the_cells_namespaces_count() -> None:
    api = FakeApi()
    for namespace in ("a", "b", "c"):
        put_pool(api, "chat", namespace)
    async with watching(api, "a", "b") as watch:
        await until(lambda: keys(watch) == {"a/chat", "b/chat"})


async def test_a_pool_that_leaves_holds_no_name() -> None:
    api = FakeApi()
    put_pool(api, "chat")
    async with watching(api) as watch:
        await until(lambda: keys(watch) == {"serving/chat"})
        put_pool(api, "chat", deletionTimestamp="2026-01-01T00:00:00Z")
        await until(lambda: keys(watch) == set())


async def test_what_does_not_read_is_left_out() -> None:
    api = FakeApi()
    broken = pool_body("broken", engine={"type": "typo"})
    api.put(f"{FOLDER}/serving/modelpools/broken", broken)
    put_pool(api, "chat")
    async with watching(api) as watch:
        await until(lambda: keys(watch) == {"serving/chat"})


async def test_a_status_that_changes_makes_no_work() -> None:
    api = FakeApi()
    put_pool(api, "chat")
    async with watching(api) as watch:
        await until(lambda: keys(watch) == {"serving/chat"})
        before = watch.cell
        put_pool(api, "chat", labels={"a": "b"})
        put_pool(api, "code")
        await until(lambda: keys(watch) == {"serving/chat", "serving/code"})
        assert before is not None and watch.cell is not None
        assert before.pools[0] is watch.cell.pools[0]


async def test_a_fresh_look_is_ahead_of_the_watch() -> None:
    api = FakeApi()
    async with watching(api, "serving") as watch:
        await until(lambda: keys(watch) == set())
        put_pool(api, "chat")
        fresh = await watch.fresh()
        assert [pool.name for pool in fresh.pools] == ["chat"] and keys(watch) == set()
        api.down = True
        with pytest.raises(Unreachable):
            await watch.fresh()
