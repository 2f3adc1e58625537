"""Keeps the certificate and both webhook configurations as they should be.

Every replica does: the Secret and the configurations change by a patch of the version that was
read, so that of several writers one comes first and the others look again. At rest it only waits
on its watches.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from urllib.parse import quote

import structlog

from shunter_operator.admission.certificates import (
    Issue,
    Pair,
    Stored,
    read,
    renewed,
    wait,
    written,
)
from shunter_operator.admission.registration import (
    CONFIGURATIONS,
    KINDS,
    Registration,
    change,
    trusts,
)
from shunter_operator.names import FIELD_MANAGER
from shunter_runtime.kube_api import MERGE, Conflict, KubeError, Object
from shunter_runtime.kube_watch import ListAndWatch, Reflector, Watched

MAX_WAIT_S = 3600.0
RETRY_S = 5.0
WRITER = {"fieldManager": FIELD_MANAGER}  # a chart that is applied anew leaves what is ours

log = structlog.get_logger(__name__)


class Api(ListAndWatch, Protocol):
    """Of `KubeApi` what is used here. Every call raises `KubeError`."""

    async def get(self, path: str) -> Object: ...

    async def patch(
        self, path: str, body: Object, content_type: str, query: Mapping[str, str] | None = None
    ) -> Object: ...


@dataclass(frozen=True, slots=True)
class Kept:
    """Objects that the chart has made: the Secret, and the configurations' common name."""

    namespace: str
    secret: str
    configuration: str


@dataclass(frozen=True, slots=True)
class Means:
    """What the keeper decides and acts with. `use` has a pair served from now on."""

    registration: Registration
    hosts: Sequence[str]  # that the certificate is for
    clock: Callable[[], datetime]
    issue: Issue
    use: Callable[[Pair], Awaitable[None]]
    leads: Callable[[], bool]
    retry_s: float = RETRY_S


class Keeper:
    """Run `run` as a task. `ready` once the API server was told of the certificate that is
    served: from then on, even if somebody spoils what is stored."""

    def __init__(self, api: Api, kept: Kept, means: Means, rng: random.Random) -> None:
        self.ready = False
        self._api = api
        self._kept = kept
        self._means = means
        self._changed = asyncio.Event()
        self._served: Pair | None = None
        self._trouble = ""
        secrets = f"/api/v1/namespaces/{quote(kept.namespace)}/secrets"
        self._secret_path = f"{secrets}/{quote(kept.secret)}"
        self._secret = self._follow(secrets, kept.secret, rng)
        self._configurations = {
            plural: self._follow(f"{CONFIGURATIONS}/{plural}", kept.configuration, rng)
            for plural in KINDS
        }

    def wake(self) -> None:
        """Something that `Means` says has changed."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in (self._secret, *self._configurations.values()):
                tasks.create_task(reflector.run())
            tasks.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            self._changed.clear()
            try:
                pause_s = await self._look()
            except Conflict:  # another replica was first; the watch brings what it wrote
                pause_s = self._means.retry_s
            except KubeError as error:
                self._complain(str(error), "it is tried again; see the operator's rights")
                pause_s = self._means.retry_s
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()

    async def _look(self) -> float:
        """Does what is to be done now; returns seconds until time alone brings more. Raises
        `KubeError`."""
        reflectors = (self._secret, *self._configurations.values())
        if not all(reflector.synced for reflector in reflectors):
            return MAX_WAIT_S
        secret = self._secret.objects.get(f"{self._kept.namespace}/{self._kept.secret}")
        live = {
            plural: reflector.objects.get(f"/{self._kept.configuration}")
            for plural, reflector in self._configurations.items()
        }
        missing = [plural for plural, found in live.items() if found is None]
        if secret is None or missing:
            names = [*(["Secret " + self._kept.secret] if secret is None else []), *missing]
            self._complain(f"not there: {', '.join(names)}", "helm upgrade makes them again")
        if secret is None:
            return MAX_WAIT_S
        found = {plural: value for plural, value in live.items() if value is not None}
        stored = read(secret.get("data") or {})
        wanted = self._renewed(stored, found)
        if wanted != stored or wanted.current is None:
            await self._store(secret, wanted)
            return MAX_WAIT_S  # what was written comes back by the watch
        await self._serve(wanted.current)
        await self._register(found, wanted)
        authority = wanted.current.authority
        if not missing and all(trusts(value, authority) for value in found.values()):
            self._trouble, self.ready = "", True
        return min(wait(wanted, self._means.clock()).total_seconds(), MAX_WAIT_S) or MAX_WAIT_S

    def _renewed(self, stored: Stored, live: dict[str, Object]) -> Stored:
        means, coming = self._means, stored.next.authority if stored.next else b""
        trusted = len(live) == len(KINDS) and all(trusts(value, coming) for value in live.values())
        return renewed(stored, trusted, means.hosts, means.clock(), means.issue)

    async def _store(self, secret: Object, wanted: Stored) -> None:
        version = secret["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version}, "data": written(wanted)}
        await self._api.patch(self._secret_path, body, MERGE, WRITER)
        log.info("webhooks.certificate_stored", next_waits=wanted.next is not None)

    async def _serve(self, pair: Pair) -> None:
        if pair != self._served:
            await self._means.use(pair)
            self._served = pair
            log.info("webhooks.certificate_served")

    async def _register(self, live: dict[str, Object], stored: Stored) -> None:
        means = self._means
        for plural, value in live.items():
            body = change(value, plural, means.registration, stored.bundle, means.leads())
            if body is not None:
                name = quote(self._kept.configuration)
                await self._api.patch(f"{CONFIGURATIONS}/{plural}/{name}", body, MERGE, WRITER)
                log.info("webhooks.registered", configuration=plural)

    def _follow(self, path: str, name: str, rng: random.Random) -> Reflector[Object]:
        """One object: the right to list and watch is bound to its name."""
        query = {"fieldSelector": f"metadata.name={name}"}
        watched: Watched[Object] = Watched(path, lambda value, _: value, query)
        return Reflector(self._api, watched, self._changed.set, rng)

    def _complain(self, trouble: str, remedy: str) -> None:
        """Once for each kind of trouble, not at each attempt."""
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("webhooks.not_kept", reason=trouble, remedy=remedy)
