"""Certificate and configurations are kept as they should be, on an API in memory."""

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from shunter_operator.admission.certificates import (
    RENEW_BEFORE,
    SETTLE,
    Pair,
    Stored,
    ends,
    issue,
    read,
    usable,
)
from shunter_operator.admission.keeper import Keeper, Kept, Means
from shunter_operator.admission.registration import (
    CONFIGURATIONS,
    KINDS,
    Address,
    Registration,
    trusts,
)
from shunter_operator.admission.review import Object
from shunter_operator.admission.testing import FakeApi
from shunter_runtime.kube_api import Refused, Unreachable

KEPT = Kept("serving", "shunter-webhook", "shunter-webhook-serving")
SECRET = "/api/v1/namespaces/serving/secrets/shunter-webhook"
HOSTS = ("shunter-webhook.serving.svc",)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
PATHS = [f"{CONFIGURATIONS}/{plural}/{KEPT.configuration}" for plural in KINDS]


def installed() -> FakeApi:
    """As the chart leaves it: all three empty."""
    api = FakeApi()
    api.put(SECRET, {"metadata": {"name": KEPT.secret, "namespace": "serving"}})
    for path in PATHS:
        api.put(path, {"metadata": {"name": KEPT.configuration}})
    return api


@dataclass
class Replica:
    """One operator's keeper."""

    api: FakeApi
    now: datetime = NOW
    leads: bool = True
    version: tuple[int, int] = (1, 30)
    served: list[Pair] = field(default_factory=list)
    keeper: Keeper = field(init=False)

    def __post_init__(self) -> None:
        address = Address("serving", "shunter-webhook")
        means = Means(
            Registration(address, self.version),
            HOSTS,
            clock=lambda: self.now,
            issue=issue,
            use=self._use,
            leads=lambda: self.leads,
            retry_s=0.01,
        )
        self.keeper = Keeper(self.api, KEPT, means, random.Random(1))

    async def _use(self, pair: Pair) -> None:
        self.served.append(pair)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Replica"]:
        task = asyncio.create_task(self.keeper.run())
        try:
            yield self
        finally:
            assert not task.done(), task.exception()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def at(self, now: datetime) -> None:
        self.now = now
        self.keeper.wake()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def quiet() -> None:
    """Everything that follows from what has happened is done: nothing here waits for the clock
    but a retry."""
    for _ in range(20):
        await asyncio.sleep(0.005)


def stored(api: FakeApi) -> Stored:
    return read(api.objects[SECRET].get("data") or {})


def configurations(api: FakeApi) -> list[Object]:
    return [api.objects[path] for path in PATHS]


def served_is_trusted(replica: Replica) -> bool:
    return all(trusts(c, replica.served[-1].authority) for c in configurations(replica.api))


async def test_an_empty_installation_is_filled_in_and_then_left_alone() -> None:
    api = installed()
    async with Replica(api).running() as replica:
        await until(lambda: replica.keeper.ready)
        current = stored(api).current
        assert replica.served == [current] and current is not None
        assert usable(current, HOSTS, NOW) and served_is_trusted(replica)
        assert [path for path, _ in api.patches] == [SECRET, *PATHS]
        replica.keeper.wake()
        await quiet()
        assert len(api.patches) == 3
    async with Replica(api).running() as successor:
        await until(lambda: successor.keeper.ready)
        assert successor.served == [current] and len(api.patches) == 3


async def test_replicas_serve_one_certificate_whoever_leads() -> None:
    api = installed()
    first, second = Replica(api, leads=False), Replica(api, leads=False)
    async with first.running(), second.running():
        await until(lambda: first.keeper.ready and second.keeper.ready)
        assert first.served[-1] == second.served[-1] == stored(api).current
        assert [path for path, _ in api.patches].count(SECRET) == 1


async def test_a_writer_who_comes_second_looks_again() -> None:
    api = installed()
    api.rivals = 3
    async with Replica(api).running() as replica:
        await until(lambda: replica.keeper.ready)
        assert served_is_trusted(replica)


@pytest.mark.parametrize("error", [Unreachable("no answer"), Refused(403, "forbidden")])
async def test_a_write_that_fails_is_tried_again(error: Unreachable | Refused) -> None:
    api = installed()
    api.fails = error
    async with Replica(api).running() as replica:
        await until(lambda: replica.keeper.ready)


async def test_a_certificate_is_renewed_while_it_is_trusted() -> None:
    api = installed()
    one, other = Replica(api), Replica(api, leads=False)
    async with one.running(), other.running():
        await until(lambda: one.keeper.ready and other.keeper.ready)
        first = one.served[-1]
        due = ends(first) - RENEW_BEFORE
        for replica in (one, other):
            replica.at(due)
        await until(lambda: stored(api).next is not None)
        coming = stored(api).next
        assert coming is not None and one.served == other.served == [first]
        both = first.authority + coming.authority
        await until(lambda: all(trusts(c, both) for c in configurations(api)))
        other.at(due + SETTLE)
        await until(lambda: one.served == other.served == [first, coming])
        assert served_is_trusted(one)
        assert all(trusts(c, first.authority) for c in configurations(api))


async def test_a_new_certificate_waits_until_the_api_server_has_its_authority() -> None:
    """Here somebody has taken a configuration away."""
    api = installed()
    async with Replica(api).running() as replica:
        await until(lambda: replica.keeper.ready)
        first = replica.served[-1]
        taken = api.objects[PATHS[0]]
        api.delete(PATHS[0])
        due = ends(first) - RENEW_BEFORE
        replica.at(due)
        await until(lambda: stored(api).next is not None)
        replica.at(due + 2 * SETTLE)
        await quiet()
        assert replica.served == [first] and stored(api).next is not None
        api.put(PATHS[0], taken)
        await until(lambda: len(replica.served) == 2)
        assert served_is_trusted(replica)


async def test_what_somebody_empties_is_filled_in_again() -> None:
    """As `kubectl replace` does, or a GitOps tool that does not merge."""
    api = installed()
    async with Replica(api, leads=False).running() as replica:
        await until(lambda: replica.keeper.ready)
        api.put(PATHS[1], {"metadata": {"name": KEPT.configuration}})
        await until(lambda: trusts(api.objects[PATHS[1]], replica.served[-1].authority))
        api.put(SECRET, {"metadata": {"name": KEPT.secret, "namespace": "serving"}})
        await until(lambda: len(replica.served) == 2)
        await until(lambda: served_is_trusted(replica))
        assert replica.keeper.ready


async def test_two_versions_do_not_write_against_each_other() -> None:
    """While an operator is replaced: the old one still leads."""
    api = installed()
    old, new = Replica(api, version=(1, 20)), Replica(api, leads=False, version=(1, 30))
    async with old.running(), new.running():
        await until(lambda: old.keeper.ready and new.keeper.ready)
        await quiet()
        before = len(api.patches)
        await quiet()
        assert len(api.patches) == before
        assert "matchConditions" not in str(configurations(api))
        old.leads, new.leads = False, True
        new.keeper.wake()
        await until(lambda: "matchConditions" in str(configurations(api)))
        old.keeper.wake()
        await quiet()
        assert "matchConditions" in str(configurations(api))


async def test_without_what_the_chart_makes_it_is_not_ready() -> None:
    api = installed()
    for path in (SECRET, PATHS[0]):
        taken = api.objects[path]
        api.delete(path)
        async with Replica(api).running() as replica:
            await quiet()
            assert not replica.keeper.ready
            api.put(path, taken)
            await until(lambda replica=replica: replica.keeper.ready)  # type: ignore[misc]


async def test_configurations_that_are_removed_are_not_made_again() -> None:
    """The chart's job before the removal takes them away while the operator still runs."""
    api = installed()
    async with Replica(api).running() as replica:
        await until(lambda: replica.keeper.ready)
        for path in PATHS:
            api.delete(path)
        await quiet()
        assert not set(PATHS) & set(api.objects)
        assert replica.keeper.ready, "pods that leave Ready would only hold up the removal"


async def test_a_broken_certificate_is_never_served() -> None:
    api = installed()
    data = {"tls.crt": "YQ==", "tls.key": "YQ==", "ca.crt": "YQ=="}
    api.put(SECRET, {"metadata": {"name": KEPT.secret, "namespace": "serving"}, "data": data})
    async with Replica(api).running() as replica:
        await until(lambda: replica.keeper.ready)
        assert len(replica.served) == 1 and usable(replica.served[0], HOSTS, NOW)
    assert base64.b64decode(api.objects[SECRET]["data"]["tls.crt"]).startswith(b"-----BEGIN")
