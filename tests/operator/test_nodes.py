"""Which nodes are about to go, and who is told."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from kube_handler import api_of
from shunter_operator.names import PoolKey
from shunter_operator.nodes import (
    NOTICE_TAINTS,
    may_watch_nodes,
    node_of,
    node_reflector,
    until_right_changes,
)
from shunter_operator.values import Node, Pod
from shunter_operator.watches import Watches
from shunter_runtime.kube_api import KubeApi, Refused, Unreachable


def body(name: str = "a", *taints: str, cordoned: bool = False) -> dict[str, Any]:
    spec: dict[str, Any] = {"taints": [{"key": key, "effect": "NoSchedule"} for key in taints]}
    if cordoned:
        spec["unschedulable"] = True
    return {"metadata": {"name": name, "resourceVersion": "7"}, "spec": spec}


@pytest.mark.parametrize(
    ("given", "node"),
    [
        (body(), Node("a")),
        ({"metadata": {"name": "a"}}, Node("a")),
        (body(cordoned=True), Node("a", cordoned=True)),
        (body("a", "gpu", NOTICE_TAINTS[0]), Node("a", notice=NOTICE_TAINTS[0])),
        (body("a", "DeletionCandidateOfClusterAutoscaler"), Node("a")),
        (body("a", "node.kubernetes.io/not-ready"), Node("a")),
    ],
)
def test_a_node_is_read(given: dict[str, Any], node: Node) -> None:
    assert node_of(given) == node
    assert node.leaving == (node != Node("a"))


def test_further_taints_can_be_named() -> None:
    assert node_of(body("a", "mine/soon"), ("mine/soon",)).notice == "mine/soon"


def test_the_pools_with_pods_on_a_changed_node_are_told() -> None:
    watches = Watches()
    here, there = PoolKey("serving", "here"), PoolKey("serving", "there")
    pods = {
        key: [Pod(key.name, key.namespace, key.name, "h", node=node)]
        for key, node in ((here, "a"), (there, "b"))
    }
    watches.bind({}, pods, {}, {})
    cordoned = {"a": Node("a", cordoned=True)}
    assert watches.set_nodes(cordoned) == [here]
    assert watches.set_nodes(cordoned) == []
    assert watches.nodes() == cordoned
    assert watches.set_nodes({}) == [here], "and when it is uncordoned"


@asynccontextmanager
async def server(folder: Path, status: int, *events: dict[str, Any]) -> AsyncIterator[KubeApi]:
    """Lists two nodes, and tells of `events` to who watches."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            listing = {
                "metadata": {"resourceVersion": "5"},
                "items": [body("a"), body("b", cordoned=True)],
            }
            return web.json_response(listing if status == 200 else {"message": "no"}, status=status)
        stream = web.StreamResponse()
        await stream.prepare(request)
        for event in events:
            await stream.write(json.dumps({"type": "MODIFIED", "object": event}).encode() + b"\n")
        await asyncio.sleep(60)
        return stream

    async with api_of(answer, folder) as api:
        yield api


@pytest.mark.parametrize(("status", "may"), [(200, True), (403, False)])
async def test_who_may_not_read_nodes_does_without(tmp_path: Path, status: int, may: bool) -> None:
    async with server(tmp_path, status) as api:
        assert await may_watch_nodes(api) is may


@pytest.mark.parametrize(("before", "answers"), [(False, [403, 500, 200]), (True, [200, 500, 403])])
async def test_a_right_that_comes_or_goes_is_noticed(before: bool, answers: list[int]) -> None:
    asked: list[int] = []

    class Api:
        async def get(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
            asked.append(answers[len(asked)])
            if asked[-1] == 403:
                raise Refused(403, "no")
            if asked[-1] == 500:
                raise Unreachable("500: not now")
            return {}

    async with asyncio.timeout(5):
        await until_right_changes(cast(KubeApi, Api()), before, 0.0)
    assert asked == answers


async def test_only_what_matters_of_a_node_is_a_change(tmp_path: Path) -> None:
    """A heartbeat tells nobody."""
    heard: list[Mapping[str, Node]] = []
    done = asyncio.Event()

    def changed(nodes: Mapping[str, Node]) -> None:
        heard.append(nodes)
        if len(heard) == 3:
            done.set()

    heartbeat = {**body("a"), "status": {"conditions": [{"type": "Ready"}]}}
    events = (heartbeat, heartbeat, body("b"), heartbeat, body("a", NOTICE_TAINTS[0]))
    async with server(tmp_path, 200, *events) as api:
        reflector = node_reflector(api, NOTICE_TAINTS, changed, random.Random(1))
        task = asyncio.create_task(reflector.run())
        async with asyncio.timeout(5):
            await done.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    cordoned, noticed = Node("b", cordoned=True), Node("a", notice=NOTICE_TAINTS[0])
    assert heard == [{"b": cordoned}, {}, {"a": noticed}]
