"""Puts the webhooks together: watches, certificate, registration and server of one replica."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import structlog

from shunter_api.validate import Known
from shunter_operator.admission.cell import CellWatch
from shunter_operator.admission.certificates import Pair, ends, issue
from shunter_operator.admission.keeper import Api, Keeper, Kept, Means
from shunter_operator.admission.registration import Address, Registration
from shunter_operator.admission.server import Reviewer, load_pair, serve_reviews, tls_context
from shunter_operator.telemetry import Telemetry
from shunter_runtime.kube_api import Refused
from shunter_runtime.metrics import port_of

NAME = "shunter-webhook"  # of the Secret and of the Service

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """`configuration` names both webhook configurations; `reached_at` is the host at which the API
    server finds this very process, where there is no Service. `port` 0: the system chooses. An
    operator that stops answers for `linger_s` more, until API servers have heard that it goes."""

    configuration: str
    reached_at: str = ""
    host: str = "0.0.0.0"
    port: int = 9443
    linger_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the operator runs, and for whom: `namespaces` empty means all. `known`: what resources
    may ask for."""

    namespace: str
    namespaces: Sequence[str]
    server_version: tuple[int, int]
    known: Known


class Webhooks:
    """What the rest of the operator sees of them. `options` None: it serves none."""

    def __init__(self, options: WebhookOptions | None) -> None:
        self._options = options
        self._leads = False
        self._keeper: Keeper | None = None
        self._cells: CellWatch | None = None
        self.port = 0

    @property
    def ready(self) -> bool:
        """Whether the API server can call this replica, and it knows the cell."""
        if self._options is None:
            return True
        if self._keeper is None or self._cells is None:
            return False
        return self._keeper.ready and self._cells.cell is not None

    def lead(self, leads: bool) -> None:
        """While this replica acts the configurations have its version's form."""
        self._leads = leads
        if self._keeper is not None:
            self._keeper.wake()

    @asynccontextmanager
    async def running(
        self, api: Api, place: Place, telemetry: Telemetry, stop: asyncio.Event
    ) -> AsyncIterator[None]:
        """Serves and keeps; what that dies of sets `stop`, and is raised at the end. Raises
        `OSError` where the port is taken, and `KubeError`."""
        options = self._options
        if options is None:
            yield
            return
        rng, tls = random.Random(), tls_context()
        cells = self._cells = CellWatch(api, place.namespaces, rng)
        reviewer = Reviewer(cells, place.known, telemetry)
        async with AsyncExitStack() as stack:
            runner = await serve_reviews(reviewer, options.host, options.port, tls)
            stack.push_async_callback(runner.cleanup)
            self.port = port_of(runner)
            log.info("webhooks.serving", port=self.port)
            means = await self._means(api, options, place, tls, telemetry)
            kept = Kept(place.namespace, NAME, options.configuration)
            keeper = self._keeper = Keeper(api, kept, means, rng)
            await stack.enter_async_context(_task(_together(cells, keeper), stop))
            yield
            await asyncio.sleep(options.linger_s)

    async def _means(
        self,
        api: Api,
        options: WebhookOptions,
        place: Place,
        tls: ssl.SSLContext,
        telemetry: Telemetry,
    ) -> Means:
        at, service = options.reached_at, f"{NAME}.{place.namespace}.svc"
        hosts = [at] if at else [service, f"{service}.cluster.local"]
        url = f"https://{_in_url(at)}:{self.port}" if at else ""
        address = Address(place.namespace, NAME, url)
        owner = await _namespace_reference(api, place.namespace)
        registration = Registration(address, place.server_version, place.namespaces, owner)

        async def use(pair: Pair) -> None:
            await asyncio.to_thread(load_pair, tls, pair)
            telemetry.webhook_certificate_ends.set(ends(pair).timestamp())

        return Means(
            registration, hosts, lambda: datetime.now(UTC), issue, use, lambda: self._leads
        )


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@asynccontextmanager
async def _task(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> AsyncIterator[None]:
    task = asyncio.create_task(work, name="webhooks")
    task.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _together(cells: CellWatch, keeper: Keeper) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(cells.run())
        tasks.create_task(keeper.run())


async def _namespace_reference(api: Api, namespace: str) -> dict[str, str]:
    """An owner, so that what is outside the namespace goes with it; none where it may not be read.
    Raises `KubeError`."""
    try:
        found = await api.get(f"/api/v1/namespaces/{quote(namespace)}")
    except Refused as error:
        log.warning("webhooks.without_owner", reason=str(error))
        return {}
    uid = str(found["metadata"]["uid"])
    return {"apiVersion": "v1", "kind": "Namespace", "name": namespace, "uid": uid}
