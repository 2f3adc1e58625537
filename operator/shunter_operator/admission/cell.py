"""The resources of the cell, as every replica follows them, whether it leads or not."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import quote

from shunter_api.load import parse_object
from shunter_api.modelpool import ModelPool
from shunter_api.problems import ConfigurationError
from shunter_api.routingpolicy import RoutingPolicy
from shunter_operator.admission.checks import Cell
from shunter_operator.names import GROUP, VERSION
from shunter_runtime.kube_api import Object
from shunter_runtime.kube_watch import ListAndWatch, Reflector, Watched

T = TypeVar("T", ModelPool, RoutingPolicy)


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """`value` is None where the resource does not read, or is being deleted."""

    uid: str
    generation: int
    leaving: bool
    value: T | None


@dataclass(frozen=True, slots=True)
class _Kind(Generic[T]):
    """One kind of resource in one namespace, or in all."""

    watched: Watched[Seen[T]]
    reflector: Reflector[Seen[T]]

    def values(self) -> list[T]:
        return [seen.value for seen in self.reflector.objects.values() if seen.value is not None]

    async def fresh(self, api: ListAndWatch) -> list[T]:
        """As the API server has them now. Raises `KubeError`."""
        before, found = self.reflector.objects, []
        for item in (await api.list(self.watched.path)).items:
            metadata = item["metadata"]
            seen = self.watched.read(
                item, before.get(f"{metadata['namespace']}/{metadata['name']}")
            )
            if seen.value is not None:
                found.append(seen.value)
        return found


class CellWatch:
    """Run `run` as a task."""

    def __init__(
        self,
        api: ListAndWatch,
        namespaces: Sequence[str],
        rng: random.Random,
    ) -> None:
        """`namespaces` empty: all."""
        self._api = api
        places = [f"/namespaces/{quote(name)}" for name in namespaces] or [""]
        self._pools = [self._kind(place, "modelpools", ModelPool, rng) for place in places]
        self._policies = [
            self._kind(place, "routingpolicies", RoutingPolicy, rng) for place in places
        ]

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for pools in self._pools:
                tasks.create_task(pools.reflector.run())
            for policies in self._policies:
                tasks.create_task(policies.reflector.run())

    @property
    def cell(self) -> Cell | None:
        """As the watches brought it; None before everything was listed."""
        listed = [kind.reflector.synced for kind in self._pools]
        listed += [kind.reflector.synced for kind in self._policies]
        if not all(listed):
            return None
        return Cell(
            tuple(pool for kind in self._pools for pool in kind.values()),
            tuple(policy for kind in self._policies for policy in kind.values()),
        )

    async def fresh(self) -> Cell:
        """As the API server has it now: a watch is some milliseconds behind. Raises `KubeError`."""
        pools = [pool for kind in self._pools for pool in await kind.fresh(self._api)]
        policies = [policy for kind in self._policies for policy in await kind.fresh(self._api)]
        return Cell(tuple(pools), tuple(policies))

    def _kind(
        self,
        place: str,
        plural: str,
        kind: type[T],
        rng: random.Random,
    ) -> _Kind[T]:
        def read(value: Object, before: Seen[T] | None) -> Seen[T]:
            return _seen(kind, value, before)

        watched = Watched(f"/apis/{GROUP}/{VERSION}{place}/{plural}", read)
        return _Kind(watched, Reflector(self._api, watched, lambda: None, rng))


def _seen(kind: type[T], value: Object, before: Seen[T] | None) -> Seen[T]:
    """`before` again where nothing but status or labels has changed."""
    metadata = value["metadata"]
    uid, generation = str(metadata.get("uid", "")), int(metadata.get("generation", 0))
    leaving = "deletionTimestamp" in metadata
    if before is not None and (before.uid, before.generation, before.leaving) == (
        uid,
        generation,
        leaving,
    ):
        return before
    if leaving:
        return Seen(uid, generation, leaving, None)
    try:
        found = parse_object(value)
    except ConfigurationError:
        return Seen(uid, generation, leaving, None)
    return Seen(uid, generation, leaving, found if isinstance(found, kind) else None)
