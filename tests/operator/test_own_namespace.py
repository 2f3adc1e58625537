"""The operator hears that its own namespace is deleted."""

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web

from lease_api import write_kubeconfig
from shunter_operator import own_namespace
from shunter_operator.own_namespace import until_deleted
from shunter_runtime.kube_access import from_kubeconfig
from shunter_runtime.kube_api import kube_api

LIVE = {"metadata": {"name": "own"}}
DELETED = {"metadata": {"name": "own", "deletionTimestamp": "2026-01-01T00:00:00Z"}}


@pytest.mark.parametrize(
    ("answers", "watches"),
    [
        ([[("ADDED", DELETED)]], 1),
        ([[("ADDED", LIVE), ("MODIFIED", LIVE), ("MODIFIED", DELETED)]], 1),
        ([[("ADDED", LIVE)], [("ADDED", LIVE), ("DELETED", LIVE)]], 2),
        ([404], 1),
        ([503, 403, [("ADDED", DELETED)]], 3),
    ],
    ids=["already", "later", "in another watch", "gone", "after trouble"],
)
async def test_it_returns_when_the_namespace_is_deleted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[int | list[tuple[str, object]]],
    watches: int,
) -> None:
    monkeypatch.setattr(own_namespace, "RETRY_S", 0.01)
    monkeypatch.setattr(own_namespace, "REFUSED_RETRY_S", 0.01)
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        told = answers[len(asked)]
        asked.append(request.path)
        if isinstance(told, int):
            return web.json_response({"message": "no"}, status=told)
        lines = (json.dumps({"type": kind, "object": body}) for kind, body in told)
        return web.Response(text="\n".join(lines) + "\n")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    config = write_kubeconfig(tmp_path / "config", f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        async with asyncio.timeout(5), kube_api(from_kubeconfig(str(config))) as api:
            await until_deleted(api, "own")
    finally:
        await runner.cleanup()
    assert asked == ["/api/v1/watch/namespaces/own"] * watches, "a Role in the namespace suffices"
