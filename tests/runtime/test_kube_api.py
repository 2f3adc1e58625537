"""The client of the Kubernetes API against a scripted server, and where it finds its cluster."""

import json
import subprocess
from pathlib import Path

import pytest
from aiohttp import web

from kube_handler import api_of
from lease_api import write_kubeconfig
from shunter_runtime import kube_api as module
from shunter_runtime.kube_access import (
    TOKEN_KEPT_S,
    KubeAccess,
    KubeAccessError,
    find_access,
    from_kubeconfig,
)
from shunter_runtime.kube_api import (
    Answer,
    Conflict,
    Gone,
    KubeApi,
    KubeError,
    NotFound,
    Refused,
    Unreachable,
    kube_api,
)

PATH = "/api/v1/pods"


async def watched(api: KubeApi) -> list[tuple[str, str]]:
    return [
        (event.type, event.object["metadata"]["name"])
        async for event in api.watch(PATH, "5", {"labelSelector": "a=b"}, 60.0)
    ]


def event(kind: str, name: str) -> bytes:
    return json.dumps({"type": kind, "object": {"metadata": {"name": name}}}).encode() + b"\n"


async def test_a_list_is_read_in_pages_of_one_version(tmp_path: Path) -> None:
    asked: list[dict[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        assert request.headers["Authorization"] == "Bearer test"
        more = "next" if "continue" not in request.query else ""
        metadata = {"resourceVersion": "7", "continue": more}
        return web.json_response({"items": [{"n": len(asked)}], "metadata": metadata})

    async with api_of(handler, tmp_path) as api:
        listing = await api.list(PATH, {"labelSelector": "a=b"})
    assert (listing.items, listing.resource_version) == (({"n": 1}, {"n": 2}), "7")
    assert asked[1] == {"labelSelector": "a=b", "limit": "500", "continue": "next"}


async def test_watch_events_may_be_cut_anywhere(tmp_path: Path) -> None:
    text = event("ADDED", "one") + event("MODIFIED", "two") + event("DELETED", "three")

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.query["resourceVersion"] == "5"
        assert request.query["allowWatchBookmarks"] == "true"
        assert request.query["labelSelector"] == "a=b"
        reply = web.StreamResponse()
        await reply.prepare(request)
        for start in range(0, len(text), 7):
            await reply.write(text[start : start + 7])
        return reply

    async with api_of(handler, tmp_path) as api:
        found = await watched(api)
    assert found == [("ADDED", "one"), ("MODIFIED", "two"), ("DELETED", "three")]


@pytest.mark.parametrize(
    ("status", "error"),
    [(403, Refused), (404, NotFound), (409, Conflict), (410, Gone), (429, Unreachable),
     (500, Unreachable), (503, Unreachable)],
)  # fmt: skip
async def test_refusals(status: int, error: type[KubeError], tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"message": "because"}, status=status)

    async with api_of(handler, tmp_path) as api:
        for call in (api.get(PATH), watched(api)):
            with pytest.raises(error, match="because") as caught:
                await call
            assert type(caught.value) is error


async def test_an_error_event_ends_a_watch(tmp_path: Path) -> None:
    status = {"kind": "Status", "code": 410, "message": "too old resource version"}

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=json.dumps({"type": "ERROR", "object": status}) + "\n")

    async with api_of(handler, tmp_path) as api:
        with pytest.raises(Gone, match="too old"):
            await watched(api)


@pytest.mark.parametrize("body", [b"<html>", b'"text"', b'{"type": 1}'])
async def test_nonsense_is_no_answer(body: bytes, tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=body + b"\n" if "watch" in request.query else body[:-1])

    async with api_of(handler, tmp_path) as api:
        with pytest.raises(Unreachable):
            await api.get(PATH)
        with pytest.raises(Unreachable):
            await watched(api)


async def test_an_endless_event_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EVENT_BYTES", 10_000)

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * 200_000)

    async with api_of(handler, tmp_path) as api:
        with pytest.raises(Unreachable):
            await watched(api)


async def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    config = write_kubeconfig(tmp_path / "config", "http://127.0.0.1:1")
    async with kube_api(from_kubeconfig(str(config))) as api:
        with pytest.raises(Unreachable, match="GET /api/v1/pods"):
            await api.get(PATH)


@pytest.fixture
def service_account(tmp_path: Path) -> Path:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", "key", "-out", "ca.crt", "-subj", "/CN=test", "-days", "1"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    (tmp_path / "token").write_text("token-one\n")
    (tmp_path / "namespace").write_text("serving")
    return tmp_path


IN_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443", "HOME": "/none"}


def test_in_a_pod_the_service_account_is_used(service_account: Path) -> None:
    access = find_access(IN_POD, service_account)
    assert (access.server, access.namespace) == ("https://10.0.0.1:443", "serving")
    assert access.authorization() == "Bearer token-one"
    assert "token-one" not in repr(access)
    ipv6 = find_access({**IN_POD, "KUBERNETES_SERVICE_HOST": "fd00::1"}, service_account)
    assert ipv6.server == "https://[fd00::1]:443"


def test_a_renewed_token_is_read(service_account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("shunter_runtime.kube_access.time.monotonic", lambda: now)
    access = find_access(IN_POD, service_account)
    (service_account / "token").write_text("two")
    assert access.authorization() == "Bearer token-one"
    now = TOKEN_KEPT_S
    assert access.authorization() == "Bearer two"


def test_a_named_kubeconfig_comes_first(service_account: Path) -> None:
    config = write_kubeconfig(service_account / "config", "http://127.0.0.1:1/")
    access: KubeAccess = find_access({**IN_POD, "KUBECONFIG": str(config)}, service_account)
    assert (access.server, access.namespace) == ("http://127.0.0.1:1", "default")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"HOME": "/none"}, "no Kubernetes cluster is configured: set KUBECONFIG"),
        ({"KUBECONFIG": "/none/config"}, "kubeconfig /none/config: "),
        (IN_POD, "automountServiceAccountToken"),
    ],
    ids=["nothing", "no-file", "no-token"],
)
def test_what_is_missing_is_said(environ: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(KubeAccessError, match=message):
        find_access(environ, tmp_path / "none")


async def test_an_answer_of_any_status_comes_with_the_servers_clock(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        body = f"{request.method} {request.path} {await request.text()}"
        date = {"Date": "Sun, 22 Nov 2026 17:00:00 GMT"}
        return web.Response(status=503, text=body, headers=date)

    path = "/api/v1/namespaces/n/pods/https:p:9090/proxy/health"
    async with api_of(handler, tmp_path) as api:
        answer = await api.ask("POST", path, {"a": 1})
    assert answer == Answer(503, "Sun, 22 Nov 2026 17:00:00 GMT", f'POST {path} {{"a":1}}'.encode())


async def test_an_answer_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 10)

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text="x" * 11)

    async with api_of(handler, tmp_path) as api:
        with pytest.raises(Unreachable, match="more than 10 bytes"):
            await api.ask("GET", PATH)
