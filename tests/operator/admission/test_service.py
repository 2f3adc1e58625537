"""The webhooks of one replica as a whole, on an API in memory and a real socket."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shunter_api.validate import Known
from shunter_operator.admission.certificates import ends, read
from shunter_operator.admission.registration import CONFIGURATIONS, KINDS
from shunter_operator.admission.service import Place, WebhookOptions, Webhooks
from shunter_operator.admission.testing import FakeApi
from shunter_operator.telemetry import Telemetry

PLACE = Place("serving", ("serving",), (1, 30), Known())
SECRET = "/api/v1/namespaces/serving/secrets/shunter-webhook"
NAMESPACE = "/api/v1/namespaces/serving"


def installed() -> FakeApi:
    api = FakeApi()
    api.put(NAMESPACE, {"metadata": {"name": "serving", "uid": "u-1"}})
    api.put(SECRET, {"metadata": {"name": "shunter-webhook", "namespace": "serving"}})
    for plural in KINDS:
        api.put(f"{CONFIGURATIONS}/{plural}/hooks", {"metadata": {"name": "hooks"}})
    return api


def configuration(api: FakeApi) -> dict[str, Any]:
    return api.objects[f"{CONFIGURATIONS}/{KINDS[0]}/hooks"]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def options(**more: Any) -> WebhookOptions:
    return WebhookOptions("hooks", host="127.0.0.1", **{"port": 0, "linger_s": 0.0, **more})


async def test_it_is_ready_once_the_api_server_can_call_it() -> None:
    api, webhooks = installed(), Webhooks(options())
    telemetry, stop = Telemetry(CollectorRegistry()), asyncio.Event()
    assert not webhooks.ready
    async with webhooks.running(api, PLACE, telemetry, stop):
        await until(lambda: webhooks.ready)
        (entry, *_) = configuration(api)["webhooks"]
        service = {"namespace": "serving", "name": "shunter-webhook"}
        assert service.items() <= entry["clientConfig"]["service"].items()
        current = read(api.objects[SECRET]["data"]).current
        assert current is not None
        shown = telemetry.registry.get_sample_value(
            "shunter_operator_webhook_certificate_end_seconds"
        )
        assert shown == ends(current).timestamp()
        assert "ownerReferences" not in configuration(api)["metadata"]
        webhooks.lead(True)
        await until(lambda: "ownerReferences" in configuration(api)["metadata"])
        (owner,) = configuration(api)["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("Namespace", "serving", "u-1")
        assert not stop.is_set()


@pytest.mark.parametrize(
    ("host", "url"), [("10.0.0.1", "https://10.0.0.1"), ("::1", "https://[::1]")]
)
async def test_outside_of_the_cluster_the_process_itself_is_called(host: str, url: str) -> None:
    api, webhooks = installed(), Webhooks(options(reached_at=host))
    async with webhooks.running(api, PLACE, Telemetry(CollectorRegistry()), asyncio.Event()):
        await until(lambda: webhooks.ready)
        (entry, *_) = configuration(api)["webhooks"]
        assert entry["clientConfig"]["url"] == f"{url}:{webhooks.port}/validate"


async def test_it_answers_until_api_servers_know_that_it_goes() -> None:
    webhooks, leave = Webhooks(options(linger_s=1.0)), asyncio.Event()

    async def serve() -> None:
        telemetry = Telemetry(CollectorRegistry())
        async with webhooks.running(installed(), PLACE, telemetry, asyncio.Event()):
            await leave.wait()

    serving = asyncio.create_task(serve())
    await until(lambda: webhooks.ready)
    leave.set()
    await asyncio.sleep(0)
    _, writer = await asyncio.open_connection("127.0.0.1", webhooks.port)
    writer.close()
    await serving
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", webhooks.port)


async def test_a_port_that_is_taken_is_told() -> None:
    api, first = installed(), Webhooks(options())
    telemetry, stop = Telemetry(CollectorRegistry()), asyncio.Event()
    async with first.running(api, PLACE, telemetry, stop):
        second = Webhooks(options(port=first.port))
        with pytest.raises(OSError, match="address already in use"):
            async with second.running(api, PLACE, telemetry, stop):
                pass


async def test_what_they_die_of_stops_the_process_and_is_raised() -> None:
    class Broken(FakeApi):
        async def list(self, path: str, query: Any = None) -> Any:
            raise LookupError("a bug")

    api, stop = Broken(installed().objects), asyncio.Event()
    with pytest.raises(BaseExceptionGroup):
        async with Webhooks(options()).running(api, PLACE, Telemetry(CollectorRegistry()), stop):
            async with asyncio.timeout(10):
                await stop.wait()


async def test_without_webhooks_a_replica_is_ready_at_once() -> None:
    webhooks = Webhooks(None)
    async with webhooks.running(FakeApi(), PLACE, Telemetry(CollectorRegistry()), asyncio.Event()):
        assert webhooks.ready
        webhooks.lead(True)
