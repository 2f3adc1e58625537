"""One kind of object, listed once and then followed by a watch for as long as the process runs."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import structlog

from shunter_runtime.kube_api import Gone, KubeError, Listing, NotFound, Object, Refused, WatchEvent

T = TypeVar("T")
WATCH_S = (240.0, 300.0)  # the server is asked to end a watch after a while in between
BACKOFF_S = (0.2, 15.0)


class ListAndWatch(Protocol):
    """What `KubeApi` does."""

    async def list(self, path: str, query: Mapping[str, str] | None = None) -> Listing: ...
    def watch(
        self, path: str, resource_version: str, query: Mapping[str, str], timeout_s: float
    ) -> AsyncGenerator[WatchEvent]: ...


@dataclass(frozen=True, slots=True)
class Watched(Generic[T]):
    """What is followed; `read` makes the value that is kept, given the one kept before."""

    path: str
    read: Callable[[Object, T | None], T]
    query: Mapping[str, str] = field(default_factory=dict)


class Reflector(Generic[T]):
    """`objects` are as the API has them, by namespace/name, once `synced`; `changed` is called
    when a kept value became another one.

    A watch goes on where the last one ended; only where the server has forgotten that version
    (410 Gone) is everything listed again. What is known stays while the API is away.
    """

    def __init__(
        self,
        api: ListAndWatch,
        watched: Watched[T],
        changed: Callable[[], None],
        rng: random.Random,
    ) -> None:
        self.objects: dict[str, T] = {}
        self.synced = False
        self._api = api
        self._watched = watched
        self._changed = changed
        self._rng = rng
        self._version = ""
        self._trouble = ""
        self._backoff_s = BACKOFF_S[0]
        self._log = structlog.get_logger(source="kubernetes", path=watched.path)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._follow()
                self._heard()
            except Gone:
                self._log.info("kubernetes.watch_too_old", version=self._version)
                self._version = ""
            except KubeError as error:
                self._complain(error)
                self._backoff_s = min(2 * self._backoff_s, BACKOFF_S[1])
            await asyncio.sleep(self._backoff_s * self._rng.uniform(0.5, 1.0))

    def _heard(self) -> None:
        """The API answers."""
        self._trouble = ""
        self._backoff_s = BACKOFF_S[0]

    async def _list(self) -> None:
        watched, before = self._watched, self.objects
        listing = await self._api.list(watched.path, watched.query)
        self._heard()
        self.objects = {
            (key := _key(item)): watched.read(item, before.get(key)) for item in listing.items
        }
        self._version = listing.resource_version
        if not self.synced or self.objects != before:
            self.synced = True
            self._changed()

    async def _follow(self) -> None:
        watched = self._watched
        events = self._api.watch(
            watched.path, self._version, watched.query, self._rng.uniform(*WATCH_S)
        )
        async with aclosing(events):
            async for event in events:
                self._heard()
                self._apply(event)

    def _apply(self, event: WatchEvent) -> None:
        metadata = event.object.get("metadata") or {}
        if version := metadata.get("resourceVersion"):
            self._version = str(version)
        if event.type not in ("ADDED", "MODIFIED", "DELETED"):
            return
        key = _key(event.object)
        before = self.objects.get(key)
        if event.type == "DELETED":
            if self.objects.pop(key, None) is not None:
                self._changed()
            return
        after = self.objects[key] = self._watched.read(event.object, before)
        if after != before:
            self._changed()

    def _complain(self, error: KubeError) -> None:
        """Once for each kind of trouble, not at each attempt."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            self._log.warning("kubernetes.unavailable", reason=str(error), remedy=_remedy(error))


def _key(value: Object) -> str:
    metadata = value["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


def _remedy(error: KubeError) -> str:
    if isinstance(error, NotFound):
        return "install the CRDs: they are in the chart's crds/"
    if isinstance(error, Refused) and error.status in (401, 403):
        return "give the service account get, list and watch on it; the chart's Role does"
    return "it is tried again"
