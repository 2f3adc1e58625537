"""The ports to the cluster: what is read from watches, and the few calls that write.

`shunter_operator.kubernetes` and `shunter_operator.watches` implement them, and
`shunter_operator.testing` holds a fake that obeys them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from shunter_api.modelpool import ModelPool
from shunter_api.problems import Problem
from shunter_api.routingpolicy import RoutingPolicy
from shunter_operator.names import PoolKey, Ref
from shunter_operator.values import Event, Manifest, Node, Pod

Body = Mapping[str, Any]


class ClusterError(Exception):
    """A call to the API server failed; `status` is its HTTP status, 0 where there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class PoolRecord:
    """A ModelPool of the cluster: as it is, and as it was read. `problems` where it was refused."""

    body: Body
    pool: ModelPool | None
    problems: tuple[Problem, ...] = ()

    @property
    def key(self) -> PoolKey:
        metadata = self.body["metadata"]
        return PoolKey(metadata["namespace"], metadata["name"])


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """A RoutingPolicy of the cluster: as it is, and as it was read."""

    body: Body
    policy: RoutingPolicy | None
    problems: tuple[Problem, ...] = ()

    @property
    def ref(self) -> Ref:
        metadata = self.body["metadata"]
        return Ref("RoutingPolicy", metadata["namespace"], metadata["name"])


class Mirror(Protocol):
    """What the watches have brought. Never asks the server."""

    def pool(self, key: PoolKey) -> PoolRecord | None: ...

    def pools(self) -> Iterable[PoolRecord]: ...

    def policies(self) -> Iterable[PolicyRecord]: ...

    def pods(self, key: PoolKey) -> Iterable[Pod]: ...

    def objects(self, key: PoolKey) -> Mapping[Ref, Manifest]: ...

    def nodes(self) -> Mapping[str, Node]:
        """By name, those that are about to go."""


class Cluster(Protocol):
    """Writes, and the one question that no watch answers. Every call raises `ClusterError`."""

    async def namespace_ends(self, namespace: str) -> bool:
        """Whether it is being deleted; False where we may not know."""

    async def apply(self, manifest: Manifest) -> None:
        """Server-side apply with our field manager; what we no longer ask for is removed."""

    async def delete(self, ref: Ref) -> None:
        """What is not there (any more) is no error."""

    async def merge(self, ref: Ref, patch: Manifest, subresource: str = "") -> None:
        """A JSON merge patch. What is not there (any more) is no error."""

    async def set_pod_condition(self, pod: Ref, kind: str, holds: bool) -> None:
        """As `merge`."""

    async def emit(self, about: Body, event: Event) -> None:
        """A Kubernetes Event about an object."""
