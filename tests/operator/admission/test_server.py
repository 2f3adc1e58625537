"""The webhooks over TLS: two replicas with one certificate, and what they say to bad callers."""

import asyncio
import io
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from shunter_api.load import parse_object
from shunter_api.modelpool import ModelPool
from shunter_api.validate import Known
from shunter_operator.admission.certificates import Pair, issue
from shunter_operator.admission.checks import Cell
from shunter_operator.admission.review import Object
from shunter_operator.admission.server import (
    MAX_BODY_BYTES,
    Reviewer,
    load_pair,
    serve_reviews,
    tls_context,
)
from shunter_operator.admission.testing import review_body
from shunter_operator.telemetry import Telemetry
from shunter_operator.testing import pool_body
from shunter_runtime.kube_api import Unreachable
from shunter_runtime.metrics import port_of

HOSTS = ("127.0.0.1",)


def parsed(name: str) -> ModelPool:
    found = parse_object(pool_body(name))
    assert isinstance(found, ModelPool)
    return found


@dataclass
class Cells:
    """What a watch has brought, and what is really there."""

    cell: Cell | None = None
    real: Cell | None = None
    asked: int = 0

    async def fresh(self) -> Cell:
        self.asked += 1
        if self.real is None:
            raise Unreachable("no API server")
        return self.real


@dataclass
class Replica:
    port: int
    tls: ssl.SSLContext
    telemetry: Telemetry

    async def post(self, path: str, body: bytes, pair: Pair) -> tuple[int, Any]:
        trust = ssl.create_default_context(cadata=pair.authority.decode())
        url = f"https://127.0.0.1:{self.port}/{path}"
        async with (
            aiohttp.ClientSession() as http,
            http.post(url, data=io.BytesIO(body), ssl=trust) as answer,
        ):
            if answer.status != 200:
                return answer.status, await answer.text()
            return 200, (await answer.json())["response"]

    def counted(self, outcome: str) -> float:
        name = "shunter_operator_admission_reviews_total"
        return self.telemetry.registry.get_sample_value(name, {"outcome": outcome}) or 0.0


@asynccontextmanager
async def replica(cells: Any, pair: Pair | None = None) -> AsyncIterator[Replica]:
    telemetry, tls = Telemetry(CollectorRegistry()), tls_context()
    if pair is not None:
        load_pair(tls, pair)
    reviewer = Reviewer(cells, Known(), telemetry)
    runner = await serve_reviews(reviewer, "127.0.0.1", 0, tls)
    try:
        yield Replica(port_of(runner), tls, telemetry)
    finally:
        await runner.cleanup()


@pytest.fixture
def pair() -> Pair:
    return issue(HOSTS, datetime.now(UTC))


def routed(pool: str, **metadata: Any) -> Object:
    return {
        "apiVersion": "shunter.dev/v1alpha1",
        "kind": "RoutingPolicy",
        "metadata": {"name": "p", "namespace": "serving", **metadata},
        "spec": {"rules": [{"name": "r", "route": [{"pool": pool}]}]},
    }


async def test_every_replica_gives_the_same_answer(pair: Pair) -> None:
    bad = review_body("CREATE", pool_body(engine={"type": "typo"}))
    cells = Cells(Cell())
    async with replica(cells, pair) as one, replica(cells, pair) as other:
        answers = [await one.post("validate", bad, pair), await other.post("validate", bad, pair)]
        assert answers[0] == answers[1]
        status, answer = answers[0]
        assert (status, answer["allowed"]) == (200, False)
        assert answer["status"]["message"].startswith("spec.engine.type: ")
        assert one.counted("refused") == other.counted("refused") == 1
        good = review_body("CREATE", pool_body())
        assert (await other.post("default", good, pair))[1]["patchType"] == "JSONPatch"
        assert (await other.post("validate", good, pair))[1] == {"uid": "u-1", "allowed": True}
        assert (other.counted("defaulted"), other.counted("allowed")) == (1, 1)


async def test_a_new_certificate_is_served_without_a_restart(pair: Pair) -> None:
    good, later = review_body("CREATE", pool_body()), issue(HOSTS, datetime.now(UTC))
    async with replica(Cells(Cell()), pair) as one:
        assert (await one.post("validate", good, pair))[0] == 200
        load_pair(one.tls, later)
        assert (await one.post("validate", good, later))[0] == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await one.post("validate", good, pair)


async def test_without_a_certificate_nobody_is_answered(pair: Pair) -> None:
    async with replica(Cells(Cell())) as one:
        with pytest.raises(aiohttp.ClientConnectionError):
            await one.post("validate", review_body("CREATE", pool_body()), pair)


async def test_no_connection_is_kept_for_a_replica_that_may_be_gone(pair: Pair) -> None:
    trust = ssl.create_default_context(cadata=pair.authority.decode())
    body = review_body("CREATE", pool_body())
    async with replica(Cells(Cell()), pair) as one, aiohttp.ClientSession() as http:
        for path in ("validate", "default", "elsewhere"):
            url = f"https://127.0.0.1:{one.port}/{path}"
            async with http.post(url, data=body, ssl=trust) as answer:
                assert answer.headers["connection"] == "close"


async def test_plain_http_is_not_spoken(pair: Pair) -> None:
    async with replica(Cells(Cell()), pair) as one, aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            await http.post(f"http://127.0.0.1:{one.port}/validate", data=b"{}")


async def test_a_pool_that_has_only_just_come_is_found(pair: Pair) -> None:
    cells = Cells(Cell(), Cell((parsed("chat"),)))
    async with replica(cells, pair) as one:
        _, answer = await one.post("validate", review_body("CREATE", routed("chat")), pair)
        assert answer["allowed"] and "warnings" not in answer
        _, answer = await one.post("validate", review_body("CREATE", routed("chta")), pair)
        assert not answer["allowed"]
        assert "did you mean 'chat'?" in answer["status"]["message"]
        assert "missing-references" in answer["status"]["message"]
        assert cells.asked == 2


async def test_without_an_api_server_clashes_are_only_told(pair: Pair) -> None:
    cells = Cells(Cell((parsed("a"),)))
    async with replica(cells, pair) as one:
        _, answer = await one.post("validate", review_body("CREATE", routed("chat")), pair)
        assert answer["allowed"] and "there is no pool 'chat'" in answer["warnings"][0]
        cells.cell = None
        _, answer = await one.post("validate", review_body("CREATE", routed("chat")), pair)
        assert answer == {"uid": "u-1", "allowed": True}
        bad = review_body("CREATE", pool_body(engine={"type": "typo"}))
        assert not (await one.post("validate", bad, pair))[1]["allowed"]
        assert (one.counted("warned"), one.counted("allowed"), one.counted("refused")) == (1, 1, 1)


async def test_an_answer_does_not_wait_for_an_api_server_that_hangs(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(Cells):
        async def fresh(self) -> Cell:
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr("shunter_operator.admission.server.FRESH_S", 0.05)
    async with replica(Hanging(Cell()), pair) as one:
        _, answer = await one.post("validate", review_body("CREATE", routed("chat")), pair)
        assert answer["allowed"] and answer["warnings"]


async def test_bad_callers_are_told_so(pair: Pair) -> None:
    async with replica(Cells(Cell()), pair) as one:
        status, said = await one.post("validate", b'{"spec": 1}', pair)
        assert status == 400 and "AdmissionReview" in said
        assert (await one.post("default", b"\xff", pair))[0] == 400
        assert (await one.post("elsewhere", b"{}", pair))[0] == 404
        assert (await one.post("validate", b" " * (MAX_BODY_BYTES + 1), pair))[0] == 413


@pytest.mark.parametrize(
    "said",
    [b"", b"POST /validate HTTP/1.1\r\nHost: x\r\n",
     b"POST /validate HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"],
    ids=["nothing", "half a head", "half a body"],
)  # fmt: skip
async def test_who_does_not_go_on_is_not_waited_for(
    said: bytes, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shunter_operator.admission.server.READ_S", 0.05)
    trust = ssl.create_default_context(cadata=pair.authority.decode())
    async with replica(Cells(Cell()), pair) as one, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port, ssl=trust)
        writer.write(said)
        answer = await reader.read()
        assert answer[:12] in (b"", b"HTTP/1.1 408")
        writer.close()


async def test_a_mistake_of_ours_is_counted_and_leaves_the_server_alive(pair: Pair) -> None:
    class Broken(Cells):
        async def fresh(self) -> Cell:
            raise LookupError("a bug")

    async with replica(Broken(Cell()), pair) as one:
        assert (await one.post("validate", review_body("CREATE", routed("x")), pair))[0] == 500
        assert one.counted("broken") == 1
        assert (await one.post("validate", review_body("CREATE", pool_body()), pair))[0] == 200
